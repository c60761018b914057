"""Layer 3: from the index of a sample to its tokens; of text."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np

from distrain.data.samples.order import Ints
from distrain.data.samples.packing import PACK_VERSION, PackedIndex, Pieces
from distrain.data.samples.pieces import cut_at_documents, packed_samples_of, samples_of
from distrain.data.samples.rows import RowBuffer, Rows
from distrain.data.shards.reader import ShardedTokens, TokenShard

Signature = tuple[object, ...]
"""Identifies the way in which samples are cut from documents, as JSON values."""


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


class DocumentDataset(Dataset, Protocol):
    """Samples that are stretches of documents, so that each can say of which."""

    tokens: ShardedTokens
    reads_ends: bool
    """Whether ``fill`` looks up where documents end."""

    def pieces_of(self, indices: Ints) -> Pieces:
        """Cut the samples ``indices`` at documents, in the order in which they lie in the rows.

        A piece holds the inputs that have a target; see ``packing``.
        """
        ...

    def samples_of(self, shard: int, begin: int, end: int) -> tuple[Ints, Ints, Ints]:
        """Return the samples with a target in the document at [begin, end) of a shard.

        Returns:
            Indices of the samples, and start within the shard and length, as those of a piece, of
            what each of them holds of the document.
        """
        ...

    def spans(self, indices: Ints) -> list[tuple[int, int]]:
        """Return where, in the stream, the tokens of samples lie: [start, stop) of each piece."""
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

    reads_ends = True

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

    def pieces_of(self, indices: Ints) -> Pieces:
        """Cut samples at documents; see ``DocumentDataset``."""
        return cut_at_documents(self.tokens, self.sequence_length, indices)

    def samples_of(self, shard: int, begin: int, end: int) -> tuple[Ints, Ints, Ints]:
        """Find the samples of a document; see ``DocumentDataset``."""
        return samples_of(self.tokens, self.sequence_length, self._length, shard, begin, end)

    def spans(self, indices: Ints) -> list[tuple[int, int]]:
        """Return where the samples lie in the stream: one piece each, its last target included."""
        starts = indices * self.sequence_length
        stops = starts + self.sequence_length + 1
        return list(zip(starts.tolist(), stops.tolist(), strict=True))

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
            buffer.padding[row] = length - filled
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

    reads_ends = False  # its plans have them

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
        # Pieces come bin by bin: how full a row is says where its next piece goes.
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
        for row, place in used.items():
            buffer.padding[row] = self.sequence_length - place

    def pieces_of(self, indices: Ints) -> Pieces:
        """Look samples up; see ``DocumentDataset``."""
        return self.index.pieces_of(indices)

    def samples_of(self, shard: int, begin: int, end: int) -> tuple[Ints, Ints, Ints]:
        """Find the samples of a document; see ``DocumentDataset``."""
        return packed_samples_of(self.index, shard, begin, end)

    def spans(self, indices: Ints) -> list[tuple[int, int]]:
        """Return where the pieces of samples lie in the stream, their last targets included."""
        pieces = self.index.pieces_of(indices)
        # Pieces count within their shard, spans within the stream.
        starts = pieces.start + np.array(self.tokens.first_token)[pieces.shard]
        stops = starts + pieces.length + 1
        return list(zip(starts.tolist(), stops.tolist(), strict=True))


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
