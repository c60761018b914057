"""Shards at a URL, read through the node's block cache; what ``publish`` wrote.

A remote source holds the same manifest as the folder that it was made from, but for the storage, so
its data has the same digest. ``blocks.table`` has an entry for each block of every shard.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from distrain.config.data import MAIN_SOURCE
from distrain.data.remote.cache.block_cache import BlockCache
from distrain.data.remote.cache.blocks import Block
from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.remote.published import read_source_manifest
from distrain.data.shards.manifest import (
    BLOCK_TABLE,
    MANIFEST,
    TOKEN_COUNTS,
    Manifest,
    ShardRecord,
    check_access,
)
from distrain.data.shards.reader import ShardedTokens
from distrain.errors import DataError

TABLE_ENTRY = np.dtype([("stored_bytes", "<u4"), ("digest", "V16")])
"""Of one block: what it takes in its object, and its digest (uncompressed)."""
COMPRESSED_ENDING = ".zst"


def stored_name(name: str, storage: str) -> str:
    """Return the name of the object that holds a ``.bin`` or ``.idx``."""
    return name if storage == "raw" else name + COMPRESSED_ENDING


class ShardBlocks:
    """The blocks of one ``.bin`` by number, made when they are asked for.

    Args:
        store: Of the source's folder.
        table: Entries of this shard's blocks.
    """

    def __init__(
        self,
        store: RemoteStore,
        manifest: Manifest,
        record: ShardRecord,
        table: NDArray[np.void],
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._record = record
        self._table = table
        self._made: dict[int, Block] = {}

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, number: int) -> Block:
        # Kept, because neighbouring samples ask for the same block over and over.
        block = self._made.get(number)
        if block is None:
            block = self._made[number] = self._make(number)
        return block

    @cached_property
    def _first_bytes(self) -> NDArray[np.int64]:
        stored = self._table["stored_bytes"].astype(np.int64)
        # Where each block begins, not where it ends.
        return np.cumsum(stored) - stored

    def _make(self, number: int) -> Block:
        manifest, name = self._manifest, self._record.name
        size = manifest.block_bytes
        whole = self._record.tokens * np.dtype(manifest.dtype).itemsize
        return Block(
            key=self._table["digest"][number].tobytes().hex(),
            # The last block of a shard is shorter.
            size_bytes=min(size, whole - number * size),
            store=self._store,
            name=stored_name(f"{name}.bin", manifest.storage),
            first_byte=int(self._first_bytes[number]),
            stored_bytes=int(self._table["stored_bytes"][number]),
            is_compressed=manifest.storage == "zstd",
            tree_block_bytes=0,
            label=f"block {number} of shard {name}",
        )


class RemoteShard:
    """A shard whose tokens are downloaded by blocks, when they are read or before.

    Args:
        store: Of the source's folder.
        table: Entries of this shard's blocks.
    """

    def __init__(
        self,
        store: RemoteStore,
        manifest: Manifest,
        record: ShardRecord,
        table: NDArray[np.void],
        cache: BlockCache,
    ) -> None:
        self.num_tokens = record.tokens
        self.num_documents = record.documents
        self._blocks = ShardBlocks(store, manifest, record, table)
        self.ends_block = whole_file(store, manifest, f"{record.name}.idx")
        self._cache = cache
        # As the bytes lie there, whatever the byte order of this machine.
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._block_tokens = manifest.block_bytes // self._dtype.itemsize

    @property
    def ends(self) -> NDArray[np.integer]:
        """End of each document, in tokens of the shard; downloaded whole on first use."""
        return self._cache.get(self.ends_block).view("<u8")

    def tokens(self, start: int, stop: int) -> NDArray[np.integer]:
        """Return the tokens at [start, stop); a view if they lie in one block.

        Raises:
            DataError: A block is not there, is damaged, or did not come in time.
        """
        size = self._block_tokens
        # Views of mapped blocks; only a read across two of them copies.
        parts = [
            self._cache.get(self._blocks[number]).view(self._dtype)[
                max(0, start - number * size) : stop - number * size
            ]
            for number in self._numbers(start, stop)
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self._dtype)

    def blocks(self, start: int, stop: int) -> list[Block]:
        """Return the blocks that hold the tokens at [start, stop)."""
        return [self._blocks[number] for number in self._numbers(start, stop)]

    def _numbers(self, start: int, stop: int) -> range:
        # Like a slice, which may ask beyond the end.
        stop = min(stop, self.num_tokens)
        if stop <= start:
            return range(0)
        return range(start // self._block_tokens, (stop - 1) // self._block_tokens + 1)


class RemoteSplit(ShardedTokens):
    """The shards of one source of a published split. Made by ``open_remote_split``."""

    def __init__(self, store: RemoteStore, manifest: Manifest, cache: BlockCache) -> None:
        self.url = store.url
        self.manifest = manifest
        self.manifests = (manifest,)
        self._store = store
        self._cache = cache
        # 20 bytes for each block of 4 MiB: whole in memory, even of many terabytes.
        table = cache.get(table_block(store, manifest)).view(TABLE_ENTRY)
        shards, first = [], 0
        for record in manifest.shards:
            count = num_blocks(manifest, record)
            shards.append(RemoteShard(store, manifest, record, table[first : first + count], cache))
            first += count
        super().__init__(shards, eos_id=manifest.eos_id)

    @cached_property
    def token_counts(self) -> NDArray[np.int64]:
        """Occurrences of each id, shape (vocab_size,)."""
        block = whole_file(self._store, self.manifest, TOKEN_COUNTS)
        counts: NDArray[np.int64] = np.load(BytesIO(self._cache.get(block).tobytes()))
        return counts

    def recorded_counts(self) -> NDArray[np.int64]:
        """Return ``token_counts``; downloaded on first use."""
        return self.token_counts


def open_remote_split(
    store: RemoteStore,
    split: str,
    source: str = MAIN_SOURCE,
    *,
    stage_kind: str,
    cache: BlockCache,
) -> RemoteSplit:
    """Open the tokens of a source in a split that was published; the same guard as ``open_split``.

    Args:
        store: Where ``publish`` put the splits.
        split: ``train``, ``validation``, or ``test`` (for a stage of kind ``evaluate`` only).
        source: Its name in the split.
        stage_kind: Kind of the stage that wants to read.
        cache: Of the node; blocks are compared with their digests when they arrive.

    Raises:
        PreflightError: The test split is asked for by another stage than ``evaluate``.
        DataError: It is not there, or not readable.
    """
    # Before the manifest is asked for: the guard holds for a split at a URL as well.
    check_access(store.url, split, source, stage_kind=stage_kind)
    timeout_s = cache.settings.stall_deadline_s
    manifest = read_source_manifest(store, split, source, timeout_s=timeout_s)
    return RemoteSplit(store.below(split, source), manifest, cache)


def num_blocks(manifest: Manifest, record: ShardRecord) -> int:
    """Return the number of blocks of a shard's ``.bin``."""
    size_bytes = record.tokens * np.dtype(manifest.dtype).itemsize
    return -(-size_bytes // manifest.block_bytes)


def whole_file(store: RemoteStore, manifest: Manifest, name: str) -> Block:
    """Return one of the manifest's files, other than a ``.bin``, as a block."""
    # Names are compressed as they are; of the rest, document ends are what readers download.
    is_compressed = manifest.storage == "zstd" and name.endswith(".idx")
    return Block(
        key=manifest.files[name].digest,
        size_bytes=manifest.files[name].size_bytes,
        store=store,
        name=stored_name(name, manifest.storage) if is_compressed else name,
        first_byte=None,
        stored_bytes=None,
        is_compressed=is_compressed,
        tree_block_bytes=manifest.block_bytes,
        label=f"file {name}",
    )


def table_block(store: RemoteStore, manifest: Manifest) -> Block:
    """Return the table of blocks as a block.

    Raises:
        DataError: The source was copied there, not published.
    """
    # Shards copied by other means are whole, but nothing tells where a block begins in them.
    if manifest.block_table is None:
        raise DataError(
            f"{store.url}/{MANIFEST}",
            "shards that were copied there, without a table of their blocks",
            "shards that were published",
            "Run 'distrain data publish', or copy them to a local disk and read them there.",
        )
    return Block(
        key=manifest.block_table.digest,
        size_bytes=manifest.block_table.size_bytes,
        store=store,
        name=BLOCK_TABLE,
        first_byte=None,
        stored_bytes=None,
        is_compressed=False,
        tree_block_bytes=manifest.block_bytes,
        label=f"file {BLOCK_TABLE}",
    )


def blocks_of(
    stream: ShardedTokens, spans: Iterable[tuple[int, int]], *, with_ends: bool = False
) -> Iterator[Block]:
    """Yield the remote blocks that hold the tokens at each [start, stop) of a stream, in order.

    Made for ``BlockCache.fetch_ahead``; shards that are not remote have none. ``with_ends`` adds
    the document ends of each shard that is touched.
    """
    for start, stop in spans:
        # In the order of reading, with repeats: ``LookAhead`` knows what it has listed.
        for number, first, end in stream.pieces(start, stop):
            shard = stream.shards[number]
            if isinstance(shard, RemoteShard):
                yield from shard.blocks(first, end)
                if with_ends:
                    yield shard.ends_block
