"""The files of one shard while they are written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from distrain.data.shards.digests import BLOCK_BYTES, BlockHasher, FileRecord
from distrain.data.shards.manifest import ShardRecord
from distrain.data.shards.names import NAMES_ENDING, pack_names
from distrain.runs.durable import sync_stream

Columns = Mapping[str, NDArray[np.generic]]


class HashingFile:
    """A file that knows size and digests of what was written, and is on disk once closed."""

    def __init__(self, path: Path, block_bytes: int = BLOCK_BYTES) -> None:
        # Never over a file that is there: two writers in one folder would each believe their
        # digests.
        self._stream: BinaryIO = path.open("xb")
        self._hasher = BlockHasher(block_bytes)

    def write(self, content: bytes | memoryview) -> None:
        """Append ``content``."""
        self._stream.write(content)
        self._hasher.update(content)

    def close(self) -> FileRecord:
        """Sync, close, and return what belongs into the manifest."""
        sync_stream(self._stream)
        self._stream.close()
        return self._hasher.record()

    def abandon(self) -> None:
        """Close without any promise."""
        self._stream.close()

    @property
    def digests(self) -> bytes:
        """Of the blocks written so far."""
        return self._hasher.digests()


class OpenShard:
    """A shard that documents are appended to.

    Args:
        name: Of its files, without the ending.
        dtype: Of the ids in the file.
    """

    def __init__(self, folder: Path, name: str, dtype: np.dtype, block_bytes: int) -> None:
        self.tokens = 0
        self._folder = folder
        self._name = name
        self._dtype = dtype
        self._block_bytes = block_bytes
        self._file = HashingFile(folder / f"{name}.bin", block_bytes)
        self._ends: list[NDArray[np.int64]] = []
        self._names: list[str] = []
        self._columns: dict[str, list[NDArray[np.generic]]] = {}

    def append(
        self,
        tokens: NDArray[np.integer],
        ends: NDArray[np.int64],
        names: Sequence[str],
        columns: Columns,
    ) -> None:
        """Append whole documents; ``ends`` are counted from the first of ``tokens``."""
        content = np.ascontiguousarray(tokens, self._dtype)
        self._file.write(content.tobytes())
        self._ends.append(ends + self.tokens)
        self._names.extend(names)
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)
        self.tokens += len(content)

    def finish(self) -> tuple[ShardRecord, dict[str, FileRecord]]:
        """Complete the files; returns what belongs into the manifest."""
        # Of the blocks of the ``.bin`` only: the other files are read whole.
        digests = self._file.digests
        records = {f"{self._name}.bin": self._file.close()}
        ends = np.concatenate(self._ends)
        side = {"idx": ends.astype("<u8").tobytes(), "blocks": digests}
        if self._names:
            side[NAMES_ENDING] = pack_names(self._names)
        for column, parts in self._columns.items():
            values = np.concatenate(parts)
            side[column] = values.astype(values.dtype.newbyteorder("<")).tobytes()
        for ending, content in side.items():
            file = HashingFile(self._folder / f"{self._name}.{ending}", self._block_bytes)
            file.write(content)
            records[f"{self._name}.{ending}"] = file.close()
        return ShardRecord(self._name, self.tokens, len(ends)), records

    def abandon(self) -> None:
        """Close without any promise."""
        self._file.abandon()
