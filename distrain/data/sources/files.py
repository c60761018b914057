"""Text files, one document each, and JSON lines, one document a line."""

import json
from collections.abc import Iterator
from pathlib import Path

from distrain.config.sources import FilesSource
from distrain.data.document import Broken, Document, read_document
from distrain.data.sources.paths import find_files

JSON_LINES = frozenset({".jsonl", ".ndjson"})


def read_files(source: FilesSource) -> Iterator[Document | Broken]:
    """Yield the documents by path; ``notes.jsonl:12`` is the one in line 12.

    Raises:
        DataError: A path of the recipe names nothing.
    """
    for file in find_files(source.paths):
        if file.suffix in JSON_LINES:
            yield from read_json_lines(file, source.text_field)
        else:
            yield read_document(file, file.as_posix())


def read_json_lines(file: Path, text_field: str) -> Iterator[Document | Broken]:
    """Yield the ``text_field`` of each line that is not blank."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _from_line(line, f"{file.as_posix()}:{number}", text_field)
    except OSError:
        yield Broken(file.as_posix(), "unreadable")


def _from_line(line: bytes, path: str, text_field: str) -> Document | Broken:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return Broken(path, "not_utf8")
    except (ValueError, RecursionError):
        return Broken(path, "not_json")
    text = record.get(text_field) if isinstance(record, dict) else None
    return Document(text, path) if isinstance(text, str) else Broken(path, "no_text_field")
