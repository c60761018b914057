"""Layer 3 over raw text: a source whose ranges are tokenized while the run reads them.

The ranges come in a keyed order. In the first epoch, samples are cut from their tokens laid end to
end and mixed within windows of samples; nothing but the number of tokens of the ranges before
decides where a range's samples lie, so neither ranks nor threads nor restarts move one. Once all
ranges are there, the number of samples is known, and later epochs are permuted as a whole.
"""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.data.samples.datasets import DocumentDataset, PackedDataset, PretrainDataset
from distrain.data.samples.order import ORDER_VERSION, Ints, Order, in_windows, permute, round_keys
from distrain.data.samples.packing import PACK_VERSION, PackedIndex, PackPlan, plan_best_fit
from distrain.data.samples.range_shards import RangeShards, is_made
from distrain.data.samples.rows import RowBuffer
from distrain.data.samples.source import OpenedSource
from distrain.data.shards.manifest import TOKEN_COUNTS
from distrain.data.shards.reader import ShardedTokens, Split, TokenShard, open_split
from distrain.errors import DataError


def range_order(seed: int, source: str, count: int) -> list[int]:
    """Return the numbers of a source's ranges in the order in which the first epoch needs them."""
    numbers: list[int] = permute(
        round_keys(seed, source, "ranges"), np.arange(count), count
    ).tolist()
    return numbers


@dataclass(frozen=True)
class GrowingOrder:
    """The order of a source as far as its ranges are there; see ``order.Order`` for the terms.

    Args:
        order: ``seed`` and ``source`` name it; a window is ``block_samples * window_blocks``.
        known: Samples of the ranges that are there, from the first on.
        is_whole: Whether these are all ranges.
    """

    order: Order
    known: int
    is_whole: bool

    @property
    def num_samples(self) -> int:
        """In an epoch; as long as nobody knows, more than any run reads."""
        return self.known if self.is_whole else 1 << 62

    def visit(self, n: Ints) -> tuple[Ints, Ints]:
        """Return the epochs and the indices of the samples ``n``, of windows that are there."""
        epochs = n // self.num_samples
        indices = np.empty_like(n)
        is_first = epochs == 0
        indices[is_first] = self._in_windows(n[is_first], back=False)
        if not is_first.all():
            indices[~is_first] = self._later.visit(n[~is_first])[1]
        return epochs, indices

    def find(self, epoch: int, indices: Ints) -> Ints:
        """Return which n visits each of ``indices`` in ``epoch``.

        In a window of which a part is still missing, some n of it.
        """
        return self._later.find(epoch, indices) if epoch else self._in_windows(indices, back=True)

    @property
    def _later(self) -> Order:
        return Order(self.order.seed, self.order.source, self.known)

    def _in_windows(self, places: Ints, *, back: bool) -> Ints:
        order = self.order
        name = (order.source, "window")
        return in_windows(places, order.window, self.known, order.seed, name, back=back)


@dataclass(frozen=True)
class _Known:
    """The samples of the ranges that are there, up to the first that is not; replaced, not changed.

    Args:
        dataset: ``None`` as long as there is no token.
        ranges: How many.
    """

    dataset: DocumentDataset | None = None
    ranges: int = 0

    @property
    def num_samples(self) -> int:
        return 0 if self.dataset is None else len(self.dataset)


class OnTheFlyStream(OpenedSource):
    """A source's samples, made as far as they are asked for.

    Args:
        ranges: Makes the shards.
        order: ``seed`` and ``source`` name the order, a window of the first epoch is
            ``block_samples * window_blocks`` samples; ``num_samples`` is not used.
        sequence_length: T.
        is_packed: Whether samples are best-fit bins, planned for each range.
        content: Digest of the ranges, and of all that is done to them.
        vocab_size: Of the tokenizer.
    """

    num_samples = None
    """Nobody has counted them; see ``OpenedSource``."""

    def __init__(
        self,
        ranges: RangeShards,
        order: Order,
        sequence_length: int,
        *,
        is_packed: bool,
        content: str,
        vocab_size: int = 0,
    ) -> None:
        self.ranges = ranges
        self.order = order
        self.sequence_length = sequence_length
        self.is_packed = is_packed
        self.content = content
        self.vocab_size = vocab_size
        self._window = order.window
        self._splits: list[Split] = []
        self._shards: list[TokenShard] = []
        self._packs: list[PackPlan] = []
        self._eos_id: int | None = None
        self._known = _Known()
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """Of everything that makes sample n what it is."""
        pack = PACK_VERSION if self.is_packed else None
        text = repr(
            (ORDER_VERSION, self.order, pack, self.sequence_length, self.content, "on the fly")
        )
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def splits(self) -> list[Split]:
        """Of the ranges that were asked for, in the order of the stream."""
        return self._splits

    def token_counts(self) -> NDArray[np.int64]:
        """Occurrences of each id in the ranges that any rank has made, shape (vocab_size,)."""
        counts = np.zeros(self.vocab_size, np.int64)
        for number in self.ranges.order:
            if is_made(self.ranges.make, number):
                counts += np.load(self.ranges.make.folder(number) / TOKEN_COUNTS)
        return counts

    def fill(self, buffer: RowBuffer, rows: Ints, n: Ints) -> None:
        """Write the source's samples ``n``, counted over all epochs, into ``rows``.

        Raises:
            DataError: A range cannot be made, or the source has no sample at all.
        """
        dataset, order = self.reach(int(n.max()))
        dataset.fill(buffer, rows, order.visit(n)[1])

    def reach(self, n: int) -> tuple[DocumentDataset, GrowingOrder]:
        """Block until the ranges that sample ``n`` depends on are tokenized.

        Returns:
            All samples of the ranges that are there, and the order in which they are read.

        Raises:
            DataError: A range cannot be made, or the source has no sample at all.
        """
        while True:
            # One look without the lock: it is replaced as a whole, and never changed.
            known = self._known
            order = GrowingOrder(
                self.order, known.num_samples, known.ranges == len(self.ranges.order)
            )
            # Where a sample of a window lies depends on nothing behind the window.
            # Once all ranges are there, any ``n`` can be answered.
            needed = 1 if order.is_whole else (n // self._window + 1) * self._window
            if known.dataset is not None and order.known >= needed:
                return known.dataset, order
            if order.is_whole:
                raise DataError(
                    f"data of source '{self.order.source}'",
                    f"less than one sample of {self.sequence_length} tokens in all its ranges",
                    "at least one sample",
                    "Add documents, or shorten training.sequence_length.",
                )
            self._open_next(known)

    def close(self) -> None:
        """Stop looking ahead."""
        self.ranges.close()

    def _open_next(self, known: _Known) -> None:
        with self._lock:
            if self._known is not known:  # another thread did
                return
            # Under the lock, so that ranges are appended in order; other readers need this one as
            # well.
            folder = self.ranges.wait_for(known.ranges)
            split = _open(folder)
            self._splits.append(split)
            self._shards += split.shards
            self._eos_id = split.eos_id
            if self.is_packed:
                length = self.sequence_length
                self._packs += [plan_best_fit(shard.ends, length) for shard in split.shards]
            self._known = _Known(self._dataset(), known.ranges + 1)

    def _dataset(self) -> DocumentDataset | None:
        # Anew for each range, around the same arrays: other threads may still read from the old
        # one.
        tokens = ShardedTokens(tuple(self._shards), eos_id=self._eos_id)
        if not tokens.num_tokens:
            return None
        if self.is_packed:
            return PackedDataset(tokens, PackedIndex(tuple(self._packs)), self.sequence_length)
        return PretrainDataset(tokens, self.sequence_length)


def _open(folder: Path) -> Split:
    split, source = folder.parent.name, folder.name
    return open_split(folder.parent.parent, split, source, stage_kind="pretrain")
