"""Layer 3: samples side by side, as arrays, and the buffer in which datasets write them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.samples.order import Ints

Ids = Ints


@dataclass(frozen=True)
class Rows:
    """Samples side by side, shape (samples, sequence_length) where nothing else is said.

    Args:
        input_ids: int64.
        target_ids: The token that follows each input, or ``IGNORE_INDEX``; int64.
        position_ids: Counted from 0 in each document, or from the row's start if it began before,
            and in padding; int32.
        cu_seqlens: Where each document begins, in the rows laid end to end, and where the last one
            ends, as FlashAttention's varlen functions take it; padding counts as a document.
            Shape (documents + 1,), int32.
        needed_only: Whether only those positions are computed that targets need; see ``needed``.
        row_values: What comes with each row, for the task: float64, shape (samples, values).
        padding: Positions of each row that hold no input, shape (samples,).
    """

    input_ids: Ids
    target_ids: Ids
    position_ids: NDArray[np.int32]
    cu_seqlens: NDArray[np.int32]
    needed_only: bool = False
    row_values: NDArray[np.float64] | None = None
    padding: Ints | None = None

    def digest(self, first_sample: int = 0, start: int = 0, stop: int | None = None) -> int:
        """Hash the rows [start, stop) as the samples from ``first_sample`` on; 32 bits.

        The hash of rows side by side is the sum, modulo 2**32, of the hashes of the rows: however
        a batch is cut, its parts' hashes sum up to the same number.
        """
        total = 0
        # Seeded by the number of the sample: rows that changed places give another sum.
        rows = zip(self.input_ids[start:stop], self.target_ids[start:stop], strict=True)
        for number, (inputs, targets) in enumerate(rows, start=first_sample):
            total += xxhash.xxh3_64_intdigest(targets, xxhash.xxh3_64_intdigest(inputs, number))
        return total % 2**32


class RowBuffer:
    """Rows in the making.

    Args:
        num_rows: Samples.
        length: T, tokens of one.
        pad_id: Input where no sample puts anything else; not a target.
    """

    needed_only = False
    """Set by a dataset of few targets; see ``Rows``."""
    row_values: NDArray[np.float64] | None = None
    """Made by a dataset that has some; see ``Rows``."""

    def __init__(self, num_rows: int, length: int, *, pad_id: int | None = None) -> None:
        self.length = length
        self.padding: Ints = np.zeros(num_rows, np.int64)
        """Positions at the end of each row that hold no input; whoever fills a row says it."""
        # Not cleared: whoever fills a row writes every position of it.
        self.input_ids: Ids = np.empty((num_rows, length), np.int64)
        self.target_ids: Ids = np.empty((num_rows, length), np.int64)
        if pad_id is not None:
            self.clear(slice(None), pad_id)
        # Each row begins a document, so nothing attends from one sample to another.
        self._starts: list[Ints] = [np.arange(num_rows) * length]

    def clear(self, rows: slice | Ints | int, pad_id: int) -> None:
        """Make ``rows`` padding."""
        self.input_ids[rows] = pad_id
        self.target_ids[rows] = IGNORE_INDEX

    def begin_documents(self, flat: Ints) -> None:
        """Note that documents begin at places of the rows laid end to end."""
        self._starts.append(flat)

    def ignore_targets(self, flat: Ints) -> None:
        """Take the targets at places of the rows laid end to end out of training."""
        self.target_ids.reshape(-1)[flat] = IGNORE_INDEX

    def finish(self) -> Rows:
        """Return the rows; the buffer must not be used again."""
        # Not np.unique: it is slower, and twice the same place does no harm before the next line.
        starts = np.sort(np.concatenate(self._starts))
        starts = starts[np.diff(starts, prepend=-1) > 0].astype(np.int32)
        cu_seqlens = np.concatenate([starts, np.array([self.input_ids.size], np.int32)])
        positions = _count(self.input_ids.size) - np.repeat(starts, np.diff(cu_seqlens))
        positions = positions.reshape(self.input_ids.shape)
        return Rows(
            self.input_ids,
            self.target_ids,
            positions,
            cu_seqlens,
            self.needed_only,
            self.row_values,
            self.padding,
        )


@lru_cache(maxsize=8)
def _count(size: int) -> NDArray[np.int32]:
    """Return 0, 1, ... up to ``size``; the caller must not write into it."""
    return np.arange(size, dtype=np.int32)
