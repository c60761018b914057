"""Layer 2's result on disk: read the tokens of one split as one long array."""

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.data.manifest import TOKEN_COUNTS, Manifest, damaged, open_manifest


class ShardedTokens:
    """The documents of a split, one after the other, each ended by ``eos_id``.

    Shards are mapped, not read: memory holds what was touched, and all ranks of a machine share
    it. Made by ``open_split``.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._shards = [
            _map(path / f"{shard.name}.bin", manifest.dtype, shard.tokens)
            for shard in manifest.shards
        ]
        self._document_ends = [
            _map(path / f"{shard.name}.idx", "uint64", shard.documents) for shard in manifest.shards
        ]
        self._first_token = [0, *accumulate(shard.tokens for shard in manifest.shards)]
        self._first_document = [0, *accumulate(shard.documents for shard in manifest.shards)]
        self.token_counts: NDArray[np.int64] = np.load(path / TOKEN_COUNTS)
        """How often each id occurs, shape (vocab_size,)."""

    @property
    def num_tokens(self) -> int:
        """Ends of documents included."""
        return self.manifest.tokens

    @property
    def num_documents(self) -> int:
        """Documents of the split."""
        return self.manifest.documents

    @property
    def eos_id(self) -> int:
        """Id that ends each document and stands nowhere else."""
        return self.manifest.eos_id

    def tokens(self, start: int, stop: int) -> NDArray[np.int64]:
        """Copy the tokens at [start, stop) of the whole stream; fewer where the stream ends."""
        stop = min(stop, self.num_tokens)
        parts = []
        number = bisect_right(self._first_token, start) - 1
        while start < stop:
            first, end = self._first_token[number], self._first_token[number + 1]
            parts.append(self._shards[number][start - first : min(stop, end) - first])
            start, number = end, number + 1
        if not parts:
            return np.empty(0, np.int64)
        return np.concatenate(parts).astype(np.int64)

    def document(self, number: int) -> NDArray[np.int64]:
        """Copy the tokens of one document, its ending ``eos_id`` included."""
        if not 0 <= number < self.num_documents:
            raise IndexError(f"document {number} of {self.num_documents}")
        shard = bisect_right(self._first_document, number) - 1
        ends, within = self._document_ends[shard], number - self._first_document[shard]
        start = int(ends[within - 1]) if within else 0
        return self._shards[shard][start : int(ends[within])].astype(np.int64)


def open_split(folder: Path, split: str, *, stage_kind: str, verify: bool = True) -> ShardedTokens:
    """Open the tokens of a split; raises what ``manifest.open_manifest`` raises.

    Args:
        folder: Of the prepare stage.
        split: ``train``, ``validation``, or ``test`` (for a stage of kind ``evaluate`` only).
        stage_kind: Kind of the stage that wants to read.
        verify: Compare the SHA-256 of every file, not only its size.
    """
    path, manifest = open_manifest(folder, split, stage_kind=stage_kind, verify=verify)
    return ShardedTokens(path, manifest)


def _map(path: Path, dtype: str, length: int) -> NDArray[np.integer]:
    kind = np.dtype(dtype).newbyteorder("<")
    if path.stat().st_size != length * kind.itemsize:
        raise damaged(path, f"{path.stat().st_size} bytes for {length} values of {dtype}")
    return np.memmap(path, dtype=kind, mode="r", shape=(length,))
