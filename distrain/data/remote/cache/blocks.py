"""The unit of the cache: a piece of a remote object, or a whole small one, named by its digest."""

from dataclasses import dataclass

import zstandard

from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.shards.digests import block_digest, record_of


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes at a URL.

    Args:
        key: Digest of the content, in hexadecimal: the name in the cache.
        size_bytes: Of the content.
        store: Where the object lies.
        name: Of the object.
        first_byte: Where the block begins in the object; ``None`` if it is the whole object.
        stored_bytes: That it takes there; ``None`` for a whole object of any size.
        is_compressed: Whether it lies there as a zstd frame.
        tree_block_bytes: 0 if ``key`` is the digest of the content, else the size of the blocks
            whose digests it is the digest of (``digests.FileRecord``).
        label: For messages: ``block 3 of shard 00012``.
    """

    key: str
    size_bytes: int
    store: RemoteStore
    name: str
    first_byte: int | None
    stored_bytes: int | None
    is_compressed: bool
    tree_block_bytes: int
    label: str

    @property
    def url(self) -> str:
        """Of the object."""
        return f"{self.store.url}/{self.name}"

    @property
    def expected(self) -> str:
        """For messages."""
        return f"{self.size_bytes} bytes with digest {self.key}"

    def is_content(self, content: bytes | memoryview) -> bool:
        """Compare size and digest."""
        if len(content) != self.size_bytes:
            return False
        if self.tree_block_bytes:
            return record_of(content, self.tree_block_bytes).digest == self.key
        return block_digest(content).hex() == self.key

    def attempt(self) -> bytes | None:
        """Read it from its URL, once; ``None`` if what came is not the block."""
        if self.first_byte is None or self.stored_bytes is None:
            stored = self.store.read(self.name)
        else:
            stop = self.first_byte + self.stored_bytes
            stored = self.store.read(self.name, self.first_byte, stop)
        # Some stores answer with less than was asked, and without an error.
        if self.stored_bytes is not None and len(stored) != self.stored_bytes:
            return None
        if not self.is_compressed:
            return stored if self.is_content(stored) else None
        try:
            # A new one each time: it must not be shared by threads.
            content = zstandard.ZstdDecompressor().decompress(
                stored, max_output_size=self.size_bytes
            )
        except zstandard.ZstdError:
            return None
        return content if self.is_content(content) else None
