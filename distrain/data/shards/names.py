"""Names of documents beside their shard: NUL-terminated, as file names may hold all other bytes."""

from collections.abc import Iterable
from pathlib import Path

import zstandard

NAMES_ENDING = "paths.zst"
LEVEL = 3


def pack_names(names: Iterable[str]) -> bytes:
    """Return the content of a ``.paths.zst``.

    Raises:
        ValueError: A name holds a NUL byte.
    """
    parts = []
    for name in names:
        if "\0" in name:
            raise ValueError(f"the name of a document holds a NUL byte: {name!r}")
        parts.append(name.encode("utf-8", "surrogateescape") + b"\0")
    return zstandard.ZstdCompressor(level=LEVEL).compress(b"".join(parts))


def unpack_names(content: bytes) -> list[str]:
    """Return the names in what ``pack_names`` made."""
    joined = zstandard.ZstdDecompressor().decompress(content)
    return [name.decode("utf-8", "surrogateescape") for name in joined.split(b"\0")[:-1]]


def read_names(folder: Path, shard: str) -> list[str] | None:
    """Return the names of the documents of a shard; ``None`` if it was written without."""
    path = folder / f"{shard}.{NAMES_ENDING}"
    return unpack_names(path.read_bytes()) if path.exists() else None
