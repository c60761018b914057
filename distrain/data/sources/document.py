"""Layer 1's records: a row or a document that was read, or something that could not be."""

from dataclasses import dataclass
from typing import Any

BROKEN_REASONS = frozenset(
    {
        "unreadable",  # the system refuses to hand over the file
        "not_utf8",
        "nul_bytes",
        "not_json",
        "no_text_field",
        "too_long",  # more than max_document_bytes
        "truncated",  # a compressed file ends early; what came before it was read
        "damaged",  # the bytes are there, but no decoder takes them; what came before was read
    }
)
"""Every reason of a ``Broken``; all of them count against ``data.skip_budget``."""


@dataclass(slots=True)  # there is one for each document, and a frozen one takes twice as long
class SourceRow:
    """What one line, row of a table, or element of an array holds.

    Args:
        path: For people and records; the same on every machine that has the same source.
        fields: By name; what JSON held that is no object is here as it is. A text is ``bytes``
            where nobody has decoded it yet, or it is not UTF-8.
        has_filler: Of a table, in which every struct has the fields of all: a ``None`` in it says
            nothing.
    """

    path: str
    fields: Any
    has_filler: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it came from.

    Args:
        text: As it was read; normalized by layer 2.
        path: For people and records; the same on every machine that has the same source.
        label: The class of a labelled text (``label_field``), as it was read.
    """

    text: str
    path: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """Input that is no text; counted against ``data.skip_budget``.

    Args:
        reason: The key under which it is counted: one of ``BROKEN_REASONS``.
    """

    path: str
    reason: str


def decode_document(content: bytes, path: str, label: str | None = None) -> Document | Broken:
    """Return UTF-8 bytes, with or without a mark in front, as a document of the name ``path``."""
    # Valid UTF-8 may hold NUL, but text does not: it tells a binary file that decodes by chance.
    if b"\0" in content:
        return Broken(path, "nul_bytes")
    try:
        return Document(content.decode("utf-8-sig"), path, label)
    except UnicodeDecodeError:
        return Broken(path, "not_utf8")
