"""Layer 2: write one split, whole or not at all.

Everything goes into a folder of another name, the manifest last; renaming that folder is the
commit. A crash before leaves nothing that could be taken for a split.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from distrain.data.manifest import (
    MANIFEST,
    PAIRS,
    TOKEN_COUNTS,
    FileRecord,
    Manifest,
    ShardRecord,
    sha256_of,
)
from distrain.data.tokenizer import Tokenizer

UINT16_IDS = 1 << 16


class HashingFile:
    """A file that knows size and SHA-256 of what was written, and is on disk once closed."""

    def __init__(self, path: Path) -> None:
        self._stream: BinaryIO = path.open("xb")
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def write(self, content: bytes) -> None:
        """Append ``content``."""
        self._stream.write(content)
        self._hash.update(content)
        self._size_bytes += len(content)

    def close(self) -> FileRecord:
        """Sync, close, and return what belongs into the manifest."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return FileRecord(self._size_bytes, self._hash.hexdigest())

    def abandon(self) -> None:
        """Close without any promise."""
        self._stream.close()


@dataclass(frozen=True)
class Origin:
    """What a split is made from.

    Args:
        corpus: Digest of its documents and of the settings; see ``Manifest.corpus``.
    """

    tokenizer: Tokenizer
    corpus: str


class ShardWriter:
    """Writes the documents of one split; as a context, it leaves nothing behind unless committed.

    Args:
        target: The split's folder; its name is the split's.
        origin: Recorded in the manifest.
        shard_tokens: Tokens of one shard, at most; a longer document makes a longer shard.
        has_pairs: Whether instruction pairs will be added.
    """

    def __init__(self, target: Path, origin: Origin, *, shard_tokens: int, has_pairs: bool) -> None:
        self.target = target
        self.origin = origin
        self.shard_tokens = shard_tokens
        self._folder = target.with_name(f".{target.name}.unfinished")
        # Left by an attempt that was killed; the stage's lock keeps a second writer away.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        vocab_size = origin.tokenizer.vocab_size
        self._dtype = np.dtype("<u2" if vocab_size <= UINT16_IDS else "<u4")
        self._counts = np.zeros(vocab_size, np.int64)
        self._text_bytes = 0
        self._shards: list[ShardRecord] = []
        self._files: dict[str, FileRecord] = {}
        self._shard: HashingFile | None = None
        self._ends: list[int] = []
        self._pairs = HashingFile(self._folder / PAIRS) if has_pairs else None
        self._num_pairs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in (self._shard, self._pairs):
            if file is not None:
                file.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, ids: Sequence[int], text_bytes: int) -> None:
        """Append one document; the token that ends it is added here."""
        tokens = np.array([*ids, self.origin.tokenizer.eos_id], self._dtype)
        written = self._ends[-1] if self._ends else 0
        if written and written + len(tokens) > self.shard_tokens:
            self._finish_shard()
            written = 0
        if self._shard is None:
            self._shard = HashingFile(self._folder / f"{self._shard_name}.bin")
        self._shard.write(tokens.tobytes())
        self._ends.append(written + len(tokens))
        self._counts += np.bincount(tokens, minlength=len(self._counts))
        self._text_bytes += text_bytes

    def add_pair(self, pair: Mapping[str, str]) -> None:
        """Append one instruction pair, a JSON line."""
        assert self._pairs is not None, "made without pairs"
        self._pairs.write(json.dumps(pair, ensure_ascii=False).encode() + b"\n")
        self._num_pairs += 1

    @property
    def num_pairs(self) -> int:
        """Pairs added so far."""
        return self._num_pairs

    def commit(self) -> Manifest:
        """Make the split exist, in place of anything that had its name."""
        self._finish_shard()
        counts = self._folder / TOKEN_COUNTS
        np.save(counts, self._counts)
        sync(counts)
        self._files[TOKEN_COUNTS] = FileRecord(counts.stat().st_size, sha256_of(counts))
        if self._pairs is not None:
            self._files[PAIRS] = self._pairs.close()
            self._pairs = None
        manifest = self._manifest()
        record = HashingFile(self._folder / MANIFEST)
        record.write(manifest.to_text().encode())
        record.close()
        sync(self._folder)
        shutil.rmtree(self.target, ignore_errors=True)
        self._folder.rename(self.target)
        sync(self.target.parent)
        return manifest

    @property
    def _shard_name(self) -> str:
        return f"{len(self._shards):05d}"

    def _finish_shard(self) -> None:
        if self._shard is None:
            return
        name = self._shard_name
        self._files[f"{name}.bin"] = self._shard.close()
        index = HashingFile(self._folder / f"{name}.idx")
        index.write(np.array(self._ends, "<u8").tobytes())
        self._files[f"{name}.idx"] = index.close()
        self._shards.append(ShardRecord(name, self._ends[-1], len(self._ends)))
        self._shard, self._ends = None, []

    def _manifest(self) -> Manifest:
        return Manifest(
            split=self.target.name,
            dtype="uint16" if self._dtype.itemsize == 2 else "uint32",
            tokens=sum(shard.tokens for shard in self._shards),
            documents=sum(shard.documents for shard in self._shards),
            text_bytes=self._text_bytes,
            vocab_size=len(self._counts),
            eos_id=self.origin.tokenizer.eos_id,
            tokenizer=self.origin.tokenizer.fingerprint,
            corpus=self.origin.corpus,
            pairs=self._num_pairs if PAIRS in self._files else None,
            shards=tuple(self._shards),
            files=self._files,
        )


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
