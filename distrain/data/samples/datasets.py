"""Layer 3: from the index of a sample to its tokens, as rows of arrays; of text and of pairs."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from distrain.data.samples.order import Ints
from distrain.data.samples.packing import PACK_VERSION, PackedIndex
from distrain.data.shards.reader import ShardedTokens, TokenShard

IGNORE_INDEX = -100
"""Target of a position that is not trained on; the value that ``distrain.loss`` leaves out."""

Ids = Ints

Signature = tuple[object, ...]
"""Identifies the way in which samples are cut from documents, as JSON values."""


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
    """

    input_ids: Ids
    target_ids: Ids
    position_ids: NDArray[np.int32]
    cu_seqlens: NDArray[np.int32]

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

    def __init__(self, num_rows: int, length: int, *, pad_id: int | None = None) -> None:
        self.length = length
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
        return Rows(
            self.input_ids, self.target_ids, positions.reshape(self.input_ids.shape), cu_seqlens
        )


class Dataset(Protocol):
    """A number of samples that can be had in any order."""

    sequence_length: int

    @property
    def signature(self) -> Signature:
        """Equal for datasets that make the same samples of the same content."""
        ...

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def fill(self, buffer: RowBuffer, rows: Ints, indices: Ints) -> None:
        """Write the samples ``indices`` into ``rows`` of the buffer."""
        ...


def gather(dataset: Dataset, indices: Ints) -> Rows:
    """Return the samples at ``indices``, in that order."""
    buffer = RowBuffer(len(indices), dataset.sequence_length)
    dataset.fill(buffer, np.arange(len(indices)), indices)
    return buffer.finish()


class PretrainDataset:
    """Concatenate and chunk: sample i is tokens [i*T, i*T + T] of the stream.

    Each token but the first is a target once. What follows the end of a document is not: nothing
    that came before tells which document is next.

    Args:
        tokens: The split.
        sequence_length: T, input tokens of a sample.
        keep_tail: Also make a sample, padded, of the tokens that fill no whole one. For
            measuring; training leaves them out.
    """

    def __init__(
        self, tokens: ShardedTokens, sequence_length: int, *, keep_tail: bool = False
    ) -> None:
        self.tokens = tokens
        self.sequence_length = sequence_length
        num_targets = max(0, tokens.num_tokens - 1)
        self._length = (
            -(-num_targets // sequence_length) if keep_tail else num_targets // sequence_length
        )

    @property
    def signature(self) -> Signature:
        """Equal for datasets that make the same samples of the same content."""
        return ("concat",)

    def __len__(self) -> int:
        """Count the samples."""
        return self._length

    def fill(self, buffer: RowBuffer, rows: Ints, indices: Ints) -> None:
        """Write the samples ``indices`` into ``rows`` of the buffer."""
        if indices.size and not 0 <= indices.min() <= indices.max() < self._length:
            raise IndexError(f"samples {indices.min()} to {indices.max()} of {self._length}")
        starts = indices * self.sequence_length
        firsts = np.array(self.tokens.first_token)
        numbers = np.searchsorted(firsts, starts, side="right") - 1
        # Strictly: the last target lies one token behind the last input.
        is_whole = starts + self.sequence_length < firsts[numbers + 1]
        for number in set(numbers[is_whole].tolist()):
            chosen = is_whole & (numbers == number)
            local = starts[chosen] - firsts[number]
            self._fill_whole(buffer, self.tokens.shards[number], rows[chosen], local)
        for row, start in zip(rows[~is_whole].tolist(), starts[~is_whole].tolist(), strict=True):
            self._fill_across(buffer, row, start)

    def _fill_whole(self, buffer: RowBuffer, shard: TokenShard, rows: Ints, starts: Ints) -> None:
        """Fill rows whose T + 1 tokens lie in one shard: all but one in ten thousand."""
        length = self.sequence_length
        for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
            tokens = shard.tokens(start, start + length + 1)
            buffer.input_ids[row] = tokens[:-1]
            buffer.target_ids[row] = tokens[1:]
        # Documents that end behind the first input and not behind the last: number in the shard,
        # and place in the row. A key of another type would make numpy copy all the ends.
        kind = shard.ends.dtype
        low = shard.ends.searchsorted(starts.astype(kind), side="right")
        high = shard.ends.searchsorted((starts + length).astype(kind), side="right")
        counts = high - low
        numbers = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts - low, counts)
        ends = shard.ends[numbers].astype(np.int64) - np.repeat(starts, counts)
        self._end_documents(buffer, np.repeat(rows, counts), ends)

    def _fill_across(self, buffer: RowBuffer, row: int, start: int) -> None:
        """Fill a row from more than one shard, or with what is left at the end of the stream."""
        length = self.sequence_length
        window = self.tokens.tokens(start, start + length + 1)
        filled = len(window) - 1
        if filled < length:
            # Any valid id will do as padding: it is no target, and a document of its own.
            buffer.clear(row, self.tokens.eos_id or 0)
            buffer.begin_documents(np.array([row * length + filled]))
        buffer.input_ids[row, :filled] = window[:-1]
        buffer.target_ids[row, :filled] = window[1:]
        for number, first, stop in self.tokens.pieces(start, start + filled + 1):
            ends, kind = self.tokens.shards[number].ends, self.tokens.shards[number].ends.dtype
            low, high = ends.searchsorted(np.array([first, stop], kind), side="right")
            places = ends[low:high].astype(np.int64) + self.tokens.first_token[number] - start
            self._end_documents(buffer, np.full(len(places), row), places[places <= filled])

    def _end_documents(self, buffer: RowBuffer, rows: Ints, places: Ints) -> None:
        """Note that documents end before ``places``, in [1, T], of ``rows``."""
        flat = rows * self.sequence_length + places
        buffer.ignore_targets(flat - 1)
        buffer.begin_documents(flat[places < self.sequence_length])


class PackedDataset:
    """Best-fit packing: sample i is a bin of document pieces; see ``packing``.

    Args:
        tokens: The split.
        index: Its bins, of ``sequence_length`` inputs.
    """

    def __init__(self, tokens: ShardedTokens, index: PackedIndex, sequence_length: int) -> None:
        self.tokens = tokens
        self.index = index
        self.sequence_length = sequence_length

    @property
    def signature(self) -> Signature:
        """Equal for datasets that make the same samples of the same content."""
        windows = sorted({plan.window_documents for plan in self.index.plans})
        return ("best_fit", PACK_VERSION, *windows)

    def __len__(self) -> int:
        """Count the samples."""
        return self.index.num_samples

    def fill(self, buffer: RowBuffer, rows: Ints, indices: Ints) -> None:
        """Write the samples ``indices`` into ``rows`` of the buffer."""
        buffer.clear(rows, self.tokens.eos_id or 0)
        used = dict.fromkeys(rows.tolist(), 0)
        begins = []
        pieces = self.index.pieces_of(indices)
        for sample, number, start, size in zip(*(part.tolist() for part in pieces), strict=True):
            row = int(rows[sample])
            place = used[row]
            tokens = self.tokens.shards[number].tokens(start, start + size + 1)
            buffer.input_ids[row, place : place + size] = tokens[:-1]
            buffer.target_ids[row, place : place + size] = tokens[1:]
            begins.append(row * self.sequence_length + place)
            used[row] = place + size
        # What is left of a row is padding: a document of its own, which no real position sees.
        begins.extend(
            row * self.sequence_length + place
            for row, place in used.items()
            if place < self.sequence_length
        )
        buffer.begin_documents(np.array(begins, np.int64))


class JoinedDataset:
    """Several datasets, one after the other."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = parts
        self.sequence_length = parts[0].sequence_length
        self._firsts = [0, *accumulate(len(part) for part in parts)]

    @property
    def signature(self) -> Signature:
        """Equal for datasets that make the same samples of the same content."""
        return ("joined", *((part.signature, len(part)) for part in self.parts))

    def __len__(self) -> int:
        """Count the samples."""
        return self._firsts[-1]

    def fill(self, buffer: RowBuffer, rows: Ints, indices: Ints) -> None:
        """Write the samples ``indices`` into ``rows`` of the buffer."""
        numbers = np.array([bisect_right(self._firsts, index) - 1 for index in indices.tolist()])
        for number in set(numbers.tolist()):
            chosen = numbers == number
            local = indices[chosen] - self._firsts[number]
            self.parts[number].fill(buffer, rows[chosen], local)


class SftDataset:
    """Pairs of ids, one a sample, filled up to ``sequence_length``.

    Args:
        examples: Input and target ids of each pair, of equal length, at most ``sequence_length``.
        pad_id: Fills up the inputs.
    """

    def __init__(
        self, examples: "list[tuple[Ids, Ids]]", sequence_length: int, *, pad_id: int
    ) -> None:
        self.examples = examples
        self.sequence_length = sequence_length
        self.pad_id = pad_id

    @property
    def signature(self) -> Signature:
        """Equal for datasets that make the same samples of the same content."""
        return ("pairs",)

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.examples)

    def fill(self, buffer: RowBuffer, rows: Ints, indices: Ints) -> None:
        """Write the samples ``indices`` into ``rows`` of the buffer."""
        buffer.clear(rows, self.pad_id)
        for row, index in zip(rows.tolist(), indices.tolist(), strict=True):
            input_ids, target_ids = self.examples[index]
            used = len(input_ids)
            buffer.input_ids[row, :used] = input_ids
            buffer.target_ids[row, :used] = target_ids
            if used < self.sequence_length:
                buffer.begin_documents(np.array([row * self.sequence_length + used]))


@lru_cache(maxsize=8)
def _count(size: int) -> NDArray[np.int32]:
    """Return 0, 1, ... up to ``size``; the caller must not write into it."""
    return np.arange(size, dtype=np.int32)
