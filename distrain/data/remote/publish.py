"""Uploads finished splits to any URL, in blocks that can be read one by one.

Each block of a ``.bin`` becomes a zstd frame of its own (RFC 8878), so any zstd can read an object
whole as well. Beside each finished object lies its part of the table; an upload that was cut off
goes on after the objects that have one. The manifest is written last.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import zstandard
from numpy.typing import NDArray

from distrain.config.data import SPLITS
from distrain.data.remote.cache.blocks import Block
from distrain.data.remote.cache.fetching import (
    Transfer,
    TransferProgress,
    complete,
    transfer_errors,
)
from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.remote.published import PUBLISHED, TOKENIZER_FILES
from distrain.data.remote.shards import (
    TABLE_ENTRY,
    ShardBlocks,
    num_blocks,
    stored_name,
    whole_file,
)
from distrain.data.shards.digests import DIGEST_BYTES, record_of
from distrain.data.shards.manifest import (
    BLOCK_TABLE,
    MANIFEST,
    Manifest,
    ShardRecord,
    check_split,
    is_whole_manifest,
    list_sources,
    parse_manifest,
)
from distrain.errors import DataError

Result = TypeVar("Result")

LEVEL = 3
"""Higher ones save little of token ids and take several times as long."""


@dataclass(frozen=True)
class PublishSettings:
    """Settings of an upload.

    Args:
        storage: ``zstd``: less to store and to download; ``raw``: less work for the readers.
        storage_options: What fsspec gives to the file system.
        threads: Objects uploaded at a time.
        timeout_s: For one object, all attempts together.
        verify: Read everything back and compare digests; else only what was begun by another
            upload is trusted by its size.
    """

    storage: Literal["raw", "zstd"] = "zstd"
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 4
    timeout_s: float = 600.0
    verify: bool = True


def publish(folder: Path, url: str, settings: PublishSettings | None = None) -> list[Manifest]:
    """Do as ``publish_each``; returns all manifests."""
    return list(publish_each(folder, url, settings))


def publish_each(
    folder: Path, url: str, settings: PublishSettings | None = None
) -> Iterator[Manifest]:
    """Upload all sources of all finished splits, and the tokenizer; yields each manifest there.

    Cut off at any moment, the same call goes on. What lies there whole is not uploaded again.

    Args:
        folder: Of the prepare stage.
        url: Where ``<split>/<source>/`` come to lie.
        settings: How.

    Raises:
        DataError: A split is damaged, another one lies there already, or an upload fails.
    """
    settings = settings or PublishSettings()
    store = RemoteStore(url, settings.storage_options)
    names = {split: list_sources(folder, split) for split in SPLITS}
    if not any(names.values()):
        raise DataError(
            str(folder),
            "no finished split",
            "the folder of a prepare stage",
            "Run the prepare stage first.",
        )
    for split, sources in names.items():
        for source in sources:
            # Digests are compared before the upload: a damaged shard must not be spread.
            yield _Upload(store, folder, check_split(folder, split, source), settings).run()
    patient = _PatientStore(store, settings.timeout_s)
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            patient.write(name, (folder / name).read_bytes())
    # Last: readers begin with this list, so all that it names is there.
    patient.write(PUBLISHED, json.dumps(names).encode())


class _Upload:
    """Of one source in one split."""

    def __init__(
        self, store: RemoteStore, folder: Path, manifest: Manifest, settings: PublishSettings
    ) -> None:
        self.store = store.below(manifest.split, manifest.source)
        self.patient = _PatientStore(self.store, settings.timeout_s)
        self.folder = folder / manifest.split / manifest.source
        self.manifest = replace(manifest, storage=settings.storage)
        self.settings = settings

    def run(self) -> Manifest:
        """Upload what is not there; returns the manifest as it lies there."""
        table = self._send_all().tobytes()
        record = record_of(table, self.manifest.block_bytes)
        self.patient.write(BLOCK_TABLE, table)
        manifest = replace(self.manifest, block_table=record)
        # After all that it names; only then are the parts of the table, by which an upload that was
        # cut off goes on, no longer needed.
        self.patient.write(MANIFEST, manifest.to_text().encode())
        for shard in self.manifest.shards:
            self.patient.remove(_table_name(shard))
        return manifest

    def _send_all(self) -> NDArray[np.void]:
        known = self._known_table()
        # A raw source is whole with the digests beside its shards: it can be copied back and read.
        left_out = (".bin",) if self.settings.storage == "raw" else (".bin", ".blocks")
        side_files = [name for name in self.manifest.files if not name.endswith(left_out)]
        with ThreadPoolExecutor(self.settings.threads, thread_name_prefix="publish") as executor:
            tables = [
                executor.submit(self._send_shard, *pair)
                for pair in zip(self.manifest.shards, known, strict=True)
            ]
            others = [executor.submit(self._send_side_file, name) for name in side_files]
            try:
                for other in others:
                    other.result()
                parts = [table.result() for table in tables]
            finally:
                # After an error, objects that were not begun are not worth their hours.
                executor.shutdown(cancel_futures=True)
        return np.concatenate([np.empty(0, TABLE_ENTRY), *parts])

    def _known_table(self) -> list[NDArray[np.void] | None]:
        """Return the parts of the table that a finished or unfinished upload left, by shard."""
        shards = self.manifest.shards
        # No manifest: an upload that was cut off has left a part of the table for each whole shard.
        if self.patient.size(MANIFEST) < 0:
            return [self._read_table(_table_name(shard), shard) for shard in shards]
        content = self.patient.read(MANIFEST)
        # Cut off while the manifest was written over, by a store that shows half an object.
        if not is_whole_manifest(content):
            return [None] * len(shards)
        there = parse_manifest(content.decode(), f"{self.store.url}/{MANIFEST}")
        if (there.digest, there.storage) != (self.manifest.digest, self.manifest.storage):
            raise DataError(
                f"{self.store.url}/{MANIFEST}",
                f"another split ({there.storage}, digest {there.digest[:16]})",
                f"nothing, or the one to publish ({self.manifest.storage}, digest "
                f"{self.manifest.digest[:16]})",
                "Publish to another URL, or remove what lies there.",
            )
        table = np.frombuffer(self.patient.read(BLOCK_TABLE), TABLE_ENTRY)
        counts = [num_blocks(self.manifest, shard) for shard in shards]
        if len(table) != sum(counts):
            return [None] * len(shards)
        parts = np.split(table, np.cumsum(counts)[:-1])
        # Not strict: of no shard at all, ``np.split`` makes one empty part.
        return [part for part, _ in zip(parts, shards, strict=False)]

    def _read_table(self, name: str, shard: ShardRecord) -> NDArray[np.void] | None:
        size = num_blocks(self.manifest, shard) * TABLE_ENTRY.itemsize
        if self.patient.size(name) != size:
            return None
        return np.frombuffer(self.patient.read(name), TABLE_ENTRY)

    def _send_shard(self, shard: ShardRecord, known: NDArray[np.void] | None) -> NDArray[np.void]:
        if known is not None and self._lies_there(shard, known):
            return known
        upload = _ShardUpload(self.store, self.folder, self.manifest, shard)
        content = self.patient.complete(upload)
        table = np.frombuffer(content, TABLE_ENTRY)
        if self.settings.verify:
            for block in self._blocks(shard, table):
                self.patient.complete(block)
        # After the check: a shard's part of the table says that its object lies there whole.
        self.patient.write(_table_name(shard), content)
        return table

    def _lies_there(self, shard: ShardRecord, table: NDArray[np.void]) -> bool:
        digests = (self.folder / f"{shard.name}.blocks").read_bytes()
        name = stored_name(f"{shard.name}.bin", self.manifest.storage)
        if (
            # These differ if the shard was prepared anew since.
            table["digest"].tobytes() != digests
            or self.patient.size(name) != table["stored_bytes"].sum()
        ):
            return False
        if not self.settings.verify:
            return True
        return all(_is_whole(block) for block in self._blocks(shard, table))

    def _blocks(self, shard: ShardRecord, table: NDArray[np.void]) -> Iterator[Block]:
        blocks = ShardBlocks(self.store, self.manifest, shard, table)
        return (blocks[number] for number in range(len(blocks)))

    def _send_side_file(self, name: str) -> None:
        block = whole_file(self.store, self.manifest, name)
        # Read back even without ``verify``: unlike for a shard, nothing that lies there tells its
        # digest.
        if self.patient.size(block.name) >= 0 and _is_whole(block):
            return
        content = (self.folder / name).read_bytes()
        if block.is_compressed:
            content = zstandard.ZstdCompressor(level=LEVEL).compress(content)
        self.patient.write(block.name, content)
        if self.settings.verify:
            self.patient.complete(block)


class _ShardUpload:
    """The upload of one ``.bin``, again from its beginning at each attempt."""

    def __init__(
        self, store: RemoteStore, folder: Path, manifest: Manifest, shard: ShardRecord
    ) -> None:
        self.label = f"shard {shard.name}"
        self.expected = "an upload that ends"
        self._store = store
        self._manifest = manifest
        self._file = folder / f"{shard.name}.bin"
        self._digests = (folder / f"{shard.name}.blocks").read_bytes()
        self._name = stored_name(self._file.name, manifest.storage)
        self.url = f"{store.url}/{self._name}"

    def attempt(self) -> bytes:
        """Upload the object once; returns the shard's part of the table."""
        table = np.empty(len(self._digests) // DIGEST_BYTES, TABLE_ENTRY)
        table["digest"] = np.frombuffer(self._digests, "V16")
        # One for all blocks: each call writes a frame of its own.
        compressor = zstandard.ZstdCompressor(level=LEVEL)
        with self._file.open("rb") as source, self._store.writing(self._name) as target:
            for entry in range(len(table)):
                content = source.read(self._manifest.block_bytes)
                if self._manifest.storage == "zstd":
                    # One frame a block: a reader decompresses it without those before it.
                    content = compressor.compress(content)
                target.write(content)
                table["stored_bytes"][entry] = len(content)
        return table.tobytes()


class _Request(Generic[Result]):
    """Anything else that is asked of the store."""

    expected = "a request that succeeds"

    def __init__(self, store: RemoteStore, name: str, action: Callable[[], Result]) -> None:
        self.label = f"file {name}"
        self.url = f"{store.url}/{name}"
        self._action = action

    def attempt(self) -> Result:
        """Ask once."""
        return self._action()


class _PatientStore:
    """A store whose requests are made again until they succeed."""

    def __init__(self, store: RemoteStore, timeout_s: float) -> None:
        self.store = store
        self.url = store.url
        self._timeout_s = timeout_s

    def complete(self, transfer: Transfer[Result]) -> Result:
        """Move something, however often it takes."""
        return complete(transfer, TransferProgress(time.monotonic() + self._timeout_s))

    def size(self, name: str) -> int:
        """Return the size of an object in bytes; -1 if it is not there."""
        return self.complete(_Request(self.store, name, lambda: self._size(name)))

    def read(self, name: str) -> bytes:
        """Read an object whole."""
        return self.complete(_Request(self.store, name, lambda: self.store.read(name)))

    def write(self, name: str, content: bytes) -> None:
        """Write an object whole."""
        self.complete(_Request(self.store, name, lambda: self._write(name, content)))

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        self.complete(_Request(self.store, name, lambda: self._remove(name)))

    def _size(self, name: str) -> int:
        size = self.store.size(name)
        # ``complete`` takes ``None`` for something that arrived damaged, and would ask again.
        return -1 if size is None else size

    def _remove(self, name: str) -> bool:
        self.store.remove(name)
        return True

    def _write(self, name: str, content: bytes) -> int:
        with self.store.writing(name) as target:
            return target.write(content)


def _is_whole(block: Block) -> bool:
    """Return whether a block lies whole at its URL; after an error there, it is written anew."""
    try:
        return block.attempt() is not None
    except transfer_errors():
        return False


def _table_name(shard: ShardRecord) -> str:
    return f"{shard.name}.table"
