"""Digests of files by blocks: any block can be checked alone, and one pass checks a whole file.

The digest is XXH3-128 (Collet, xxHash specification 0.2.0), 128 bits. It must find what disks and
networks do, not a forger, and it must not slow down reading: one core hashes at the speed of
memory, over ten times as fast as SHA-256 with its own instructions, or as BLAKE2.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

BLOCK_BYTES = 4 << 20
DIGEST_BYTES = 16


@dataclass(frozen=True)
class FileRecord:
    """Size of one file, and the digest of the digests of its blocks, in hexadecimal."""

    size_bytes: int
    digest: str


def block_digest(content: bytes | memoryview) -> bytes:
    """Return the 16 bytes that stand for one block."""
    return xxhash.xxh3_128(content).digest()


def digest_of_blocks(digests: bytes) -> str:
    """Return a file's digest from those of its blocks, one after the other."""
    return xxhash.xxh3_128(digests).hexdigest()


def record_of(content: bytes | memoryview, block_bytes: int = BLOCK_BYTES) -> FileRecord:
    """Return the record of a file with this content."""
    view = memoryview(content)
    digests = b"".join(
        block_digest(view[start : start + block_bytes])
        for start in range(0, len(content), block_bytes)
    )
    return FileRecord(len(content), digest_of_blocks(digests))


def block_digests(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the digest of each block of a file. Hashing and reading hold no interpreter lock."""
    # One buffer, filled again and again: a file of any size is hashed in the memory of a block.
    buffer = bytearray(block_bytes)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as stream:
        while filled := _fill(stream.readinto, view):
            yield block_digest(view[:filled])


class BlockHasher:
    """Digests of the blocks of what is shown to it, in pieces of any size."""

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        self.block_bytes = block_bytes
        self.size_bytes = 0
        self._digests = bytearray()
        self._block = xxhash.xxh3_128()

    def update(self, content: bytes | memoryview) -> None:
        """Show the next bytes."""
        view = memoryview(content)
        while len(view):
            # Blocks count from the beginning of the file, in whatever pieces it is shown.
            room = self.block_bytes - self.size_bytes % self.block_bytes
            part, view = view[:room], view[room:]
            self._block.update(part)
            self.size_bytes += len(part)
            if len(part) == room:
                self._digests += self._block.digest()
                self._block.reset()

    def digests(self) -> bytes:
        """Return the digests of all blocks, the last and shorter one included."""
        if self.size_bytes % self.block_bytes:
            return bytes(self._digests) + self._block.digest()
        return bytes(self._digests)

    def record(self) -> FileRecord:
        """Return size and digest of everything shown."""
        return FileRecord(self.size_bytes, digest_of_blocks(self.digests()))


def _fill(readinto: Callable[[memoryview], int | None], view: memoryview) -> int:
    # One read may return less than asked, at most 2 GB and fewer bytes on network file systems.
    filled = 0
    while filled < len(view) and (count := readinto(view[filled:])):
        filled += count
    return filled
