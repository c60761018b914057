"""The shards of one source while they are written: documents in a row, cut into files."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.data.shards.digests import FileRecord
from distrain.data.shards.files import Columns, OpenShard
from distrain.data.shards.manifest import Manifest, ShardRecord
from distrain.runs.durable import sync


class ShardSequence:
    """Shards that documents are appended to, or that are taken whole from elsewhere.

    Args:
        folder: That the files lie in.
        dtype: Of the ids in the files.
        shard_tokens: Tokens of one shard, at most; a longer document makes a longer shard.
        block_bytes: Size of the blocks with digests.
    """

    def __init__(self, folder: Path, dtype: np.dtype, shard_tokens: int, block_bytes: int) -> None:
        self.dtype = dtype
        self.shards: list[ShardRecord] = []
        """Of finished shards."""
        self.files: dict[str, FileRecord] = {}
        self.columns: dict[str, str] | None = None
        """Type by name; ``None`` before the first document."""
        self._has_names: bool | None = None
        self._folder = folder
        self._shard_tokens = shard_tokens
        self._block_bytes = block_bytes
        self._shard: OpenShard | None = None

    def append(
        self,
        tokens: NDArray[np.integer],
        ends: NDArray[np.int64],
        names: Sequence[str],
        columns: Columns,
    ) -> None:
        """Cut finished documents, their endings included, into shards."""
        first = 0
        while first < len(ends):
            start = int(ends[first - 1]) if first else 0
            written = self._shard.tokens if self._shard is not None else 0
            # Up to this token the documents still go into the open shard.
            room = start + self._shard_tokens - written
            last = int(np.searchsorted(ends, room, side="right"))
            # Not even one: a shard with something in it is full; an empty one takes it, however
            # long.
            if last <= first:
                if written:
                    self.finish()
                    continue
                last = first + 1
            if self._shard is None:
                self._shard = OpenShard(
                    self._folder, self._shard_name, self.dtype, self._block_bytes
                )
            self._shard.append(
                tokens[start : int(ends[last - 1])],
                ends[first:last] - start,
                names[first:last],
                {name: values[first:last] for name, values in columns.items()},
            )
            first = last

    def finish(self) -> None:
        """Complete the shard that is being written, if there is one."""
        if self._shard is not None:
            record, files = self._shard.finish()
            self.shards.append(record)
            self.files |= files
            self._shard = None

    def link(self, part: Manifest, finished: Path) -> None:
        """Take the shards in the folder ``finished`` as they are; a new shard begins after them."""
        self.finish()
        new_names = {}
        for shard in part.shards:
            new_names[shard.name] = self._shard_name
            self.shards.append(replace(shard, name=self._shard_name))
        for file, record in part.files.items():
            # Only files of shards: counts, inputs and pairs are of the whole source, and made anew.
            stem, _, ending = file.partition(".")
            if stem in new_names:
                name = f"{new_names[stem]}.{ending}"
                _link(finished / file, self._folder / name)
                self.files[name] = record

    def agree(self, has_names: bool, columns: dict[str, str]) -> None:
        """Check that these documents have names and columns if those before have.

        Raises:
            ValueError: They differ.
        """
        if self._has_names is None:
            self._has_names, self.columns = has_names, columns
        if (has_names, columns) != (self._has_names, self.columns):
            raise ValueError(
                f"documents with names: {has_names}, columns: {columns}; those before: "
                f"{self._has_names}, {self.columns}"
            )

    def abandon(self) -> None:
        """Close without any promise."""
        if self._shard is not None:
            self._shard.abandon()

    @property
    def _shard_name(self) -> str:
        return f"{len(self.shards):05d}"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        sync(target)
