"""Layer 3: what one sample is, as rows of arrays, for pretraining and for fine-tuning."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distrain.data.shards import ShardedTokens

IGNORE_INDEX = -100
"""Target of a position that is not trained on; the value that ``distrain.loss`` leaves out."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Samples side by side; every array has shape (samples, sequence_length), int64.

    Args:
        target_ids: The token that follows each input, or ``IGNORE_INDEX``.
        document_ids: Which document of its row a position belongs to; -1 for padding.
        position_ids: Counted from 0 in each document, or from the row's start if it began before.
    """

    input_ids: Ids
    target_ids: Ids
    document_ids: Ids
    position_ids: Ids


class Dataset(Protocol):
    """A number of samples that can be had in any order."""

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def gather(self, indices: Ids) -> Rows:
        """Return the samples at ``indices``, in that order."""
        ...


class PretrainDataset:
    """Concatenate and chunk: sample i is tokens [i*T, i*T + T] of the split's stream.

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

    def __len__(self) -> int:
        """Count the samples."""
        return self._length

    def gather(self, indices: Ids) -> Rows:
        """Return the samples at ``indices``, in that order."""
        length, eos_id = self.sequence_length, self.tokens.eos_id
        # What lies behind the end of the stream reads as further ends of documents.
        window = np.full((len(indices), length + 1), eos_id, np.int64)
        filled = np.empty((len(indices), 1), np.int64)
        for row, index in enumerate(indices):
            if not 0 <= index < self._length:
                raise IndexError(f"sample {index} of {self._length}")
            start = int(index) * length
            chunk = self.tokens.tokens(start, start + length + 1)
            window[row, : len(chunk)] = chunk
            filled[row] = len(chunk) - 1
        input_ids, target_ids = window[:, :-1], window[:, 1:].copy()
        places = np.arange(length)
        is_padding = places >= filled
        target_ids[(input_ids == eos_id) | is_padding] = IGNORE_INDEX
        begins = np.zeros(input_ids.shape, np.bool_)
        begins[:, 1:] = input_ids[:, :-1] == eos_id
        document_ids = np.cumsum(begins, axis=1, dtype=np.int64)
        first = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
        document_ids[is_padding] = -1
        return Rows(np.ascontiguousarray(input_ids), target_ids, document_ids, places - first)


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

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.examples)

    def gather(self, indices: Ids) -> Rows:
        """Return the samples at ``indices``, in that order."""
        shape = (len(indices), self.sequence_length)
        rows = Rows(
            np.full(shape, self.pad_id, np.int64),
            np.full(shape, IGNORE_INDEX, np.int64),
            np.full(shape, -1, np.int64),
            np.zeros(shape, np.int64),
        )
        for row, index in enumerate(indices):
            input_ids, target_ids = self.examples[int(index)]
            used = len(input_ids)
            rows.input_ids[row, :used] = input_ids
            rows.target_ids[row, :used] = target_ids
            rows.document_ids[row, :used] = 0
            rows.position_ids[row, :used] = np.arange(used)
        return rows
