"""Layer 1's records: a document that was read, or something that could not be."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it came from.

    Args:
        text: As it was read; normalised by layer 2.
        path: For people and records; the same on every machine that has the same source.
    """

    text: str
    path: str


@dataclass(frozen=True, slots=True)
class Broken:
    """What a source met that is no text; counted against ``data.skip_budget``.

    Args:
        reason: One of a few fixed words, the key under which it is counted.
    """

    path: str
    reason: str


def read_document(file: Path, path: str) -> Document | Broken:
    """Read a whole file as one document; ``path`` is the name it gets."""
    try:
        content = file.read_bytes()
    except OSError:
        return Broken(path, "unreadable")
    # Valid UTF-8 may hold NUL, but text does not: it tells a binary file that decodes by chance.
    if b"\0" in content:
        return Broken(path, "nul_bytes")
    try:
        return Document(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError:
        return Broken(path, "not_utf8")
