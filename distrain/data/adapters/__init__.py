"""Token files that other tools wrote, read in place: one file and one line of ``ADAPTERS`` each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distrain.data.adapters import datatrove, megatron, npy
from distrain.data.adapters.foreign import ForeignShard, Reading


@dataclass(frozen=True)
class Adapter:
    """The functions that find and open the files of one format.

    Args:
        endings: Of the files of ids in a folder; those with the first ending that any file has.
        locate: Returns the file of ids that a path stands for; ``None`` if for none.
        open_shard: Opens one file of ids. Raises ``DataError`` for whatever is wrong with it.
    """

    endings: tuple[str, ...]
    locate: Callable[[Path], Path | None]
    open_shard: Callable[[Path, Reading], ForeignShard]


ADAPTERS: dict[str, Adapter] = {
    "megatron": Adapter(megatron.ENDINGS, megatron.locate, megatron.open_shard),
    "datatrove": Adapter(datatrove.ENDINGS, datatrove.locate, datatrove.open_shard),
    "npy": Adapter(npy.ENDINGS, npy.locate, npy.open_shard),
}
