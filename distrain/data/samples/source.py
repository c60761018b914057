"""Layer 3: an opened source, and what its readers may ask of it, whatever it is made of.

Who adds a form of source answers these questions in one file; nobody asks which form it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distrain.data.remote.cache.block_cache import BlockCache
from distrain.data.remote.cache.blocks import Block
from distrain.data.samples.datasets import DocumentDataset
from distrain.data.samples.order import Ints
from distrain.data.samples.rows import RowBuffer
from distrain.data.shards.digests import BLOCK_BYTES
from distrain.data.shards.reader import ShardedTokens, Split


class Visits(Protocol):
    """In which order the samples of a source are read; see ``order.Order``."""

    @property
    def num_samples(self) -> int:
        """In an epoch."""
        ...

    def visit(self, n: Ints) -> tuple[Ints, Ints]:
        """Return the epochs and the indices of the samples ``n``."""
        ...

    def find(self, epoch: int, indices: Ints) -> Ints:
        """Return which n visits each of ``indices`` in ``epoch``."""
        ...


@dataclass(frozen=True)
class SourceTokens:
    """One split of one source, wherever its tokens lie.

    Args:
        digest: Stands for the content in a checkpoint.
        counts: File that holds how often each id occurs, if no manifest leads to one.
        cache: That blocks are downloaded into; ``None`` where all shards are local.
    """

    tokens: ShardedTokens
    digest: str
    counts: Path | None = None
    cache: BlockCache | None = None

    @classmethod
    def of_split(cls, split: Split) -> "SourceTokens":
        """Take what a prepare stage of this run wrote."""
        return cls(split, split.manifest.digest)

    def token_counts(self) -> NDArray[np.int64]:
        """Return how often each id occurs, shape (V,)."""
        known = self.tokens.recorded_counts()
        if known is not None:
            return known
        assert self.counts is not None, "tokens without a manifest are counted by prepare"
        counts: NDArray[np.int64] = np.load(self.counts)
        return counts

    def ends_digests(self) -> list[str] | None:
        """Return ``pack_files.ends_digest`` of each shard, where manifests know it."""
        manifests = self.tokens.manifests
        # A digest over other blocks is another number for the same ends: it would plan anew for
        # nothing at best, and never match at worst.
        if not manifests or any(manifest.block_bytes != BLOCK_BYTES for manifest in manifests):
            return None
        return [
            manifest.files[f"{shard.name}.idx"].digest
            for manifest in manifests
            for shard in manifest.shards
        ]


class OpenedSource(ABC):
    """A source's samples in the order in which a run reads them, epoch after epoch.

    A form has to say what sample n is (``fingerprint``) and to make it (``fill``). The other
    answers are those of ready samples in memory, unless it gives its own.
    """

    sequence_length: int
    """Tokens of a sample."""
    num_samples: int | None
    """In an epoch; ``None`` where nobody has counted them yet."""
    cache: BlockCache | None = None
    """That blocks of the source are downloaded into; ``None`` where nothing is."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of everything that makes sample n what it is."""

    @abstractmethod
    def fill(self, buffer: RowBuffer, rows: Ints, n: Ints) -> None:
        """Write the source's samples ``n``, counted over all epochs, into ``rows``."""

    @property
    def splits(self) -> Sequence[Split]:
        """Local splits that the source's shards are of, in their order, where these have names."""
        return ()

    def token_counts(self) -> NDArray[np.int64] | None:
        """Return how often each id occurs in what is made so far, shape (V,), if anyone counted."""
        return None

    def reach(self, n: int) -> tuple[DocumentDataset, Visits]:
        """Block until all is there that sample ``n`` depends on.

        Returns:
            The samples that are there, and the order in which they are read.

        Raises:
            TypeError: Its samples are not cut from documents in shards.
            DataError: They cannot be made.
        """
        raise TypeError(f"{type(self).__name__}; expected a source of documents")

    def costs(self, n: Ints) -> Ints | None:
        """Return what a pass over each of the samples ``n`` takes, shape (samples, 3).

        Positions up to the last target, targets, and tokens of the longest document; ``None``
        where all samples take the same.
        """
        return None

    def blocks(self, n: Ints) -> Iterator[Block]:
        """Yield what is downloaded for the samples ``n``, in the order in which ``fill`` asks."""
        yield from ()

    def close(self) -> None:
        """Stop making samples; who waits for one gets an error."""
        return
