"""The first rows of a file, and the names of a table's columns."""

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from distrain.config.input_files import FileForm
from distrain.config.json_elements import JsonElementError, elements

MAX_BYTES = 2**18
"""Read of each file; a row that is longer is not judged."""
MAX_ROWS = 200


PlacedRow = tuple[str, Any, bool]
"""``FILE:PLACE``, content, and whether it has filler, as rows of tables have."""


def first_rows(file: Path, form: FileForm) -> Iterator[PlacedRow]:
    """Yield the first rows that are not blank, as those who read them do.

    The place is the line in which a row begins; of a table, the row's number from 0 on. The content
    is a ``ValueError`` where a line is no JSON. Nothing is yielded of a file that cannot be read or
    decompressed here; see ``runtime_rows.py``.
    """
    reader = ROWS.get(form.format)
    if reader is not None:
        for place, row in islice(reader(*_first_bytes(file, form)), MAX_ROWS):
            yield f"{file}:{place}", row, False


def _json_lines(content: bytes, is_cut: bool) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(content, is_cut), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, ValueError(str(error))


def _json_elements(content: bytes, is_cut: bool) -> Iterator[tuple[int, Any]]:
    text = content.decode(errors="ignore" if is_cut else "replace")
    try:
        yield from elements(text)
    except JsonElementError as error:
        if not is_cut:
            yield error.line, error


def _csv_rows(content: bytes, is_cut: bool) -> Iterator[tuple[int, Any]]:
    lines = [line.decode("utf-8-sig", errors="replace") + "\n" for line in _lines(content, is_cut)]
    try:
        rows = list(csv.DictReader(lines, restval=""))
    except csv.Error:
        return
    # A record may go on behind what was read.
    for number, row in enumerate(rows[:-1] if is_cut else rows):
        yield number, {name: value for name, value in row.items() if isinstance(name, str)}


def _plain_lines(content: bytes, is_cut: bool) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(content, is_cut), start=1):
        if line.strip():
            yield number, {"text": line.decode(errors="replace")}


ROWS: Mapping[str, Callable[[bytes, bool], Iterator[tuple[int, Any]]]] = {
    "jsonl": _json_lines,
    "json": _json_elements,
    "csv": _csv_rows,
    "lines": _plain_lines,
}
"""Format -> place and content of its rows, of the first bytes of a file and whether there are
more."""


def column_names(file: Path, form: FileForm) -> list[str] | None:
    """Return the names in the first record of a CSV file; ``None`` if it cannot be told."""
    lines = _whole_lines(file, form)
    if not lines:
        return None
    try:
        return next(csv.reader(line.decode("utf-8-sig") for line in lines), None)
    except (UnicodeDecodeError, csv.Error):
        return None


def _whole_lines(file: Path, form: FileForm) -> list[bytes]:
    return _lines(*_first_bytes(file, form))


def _lines(content: bytes, is_cut: bool) -> list[bytes]:
    lines = content.split(b"\n")
    # What was cut off in the middle is no line, and might be no JSON for that alone.
    return lines[:-1] if is_cut else lines


def _first_bytes(file: Path, form: FileForm) -> tuple[bytes, bool]:
    try:
        with _open(file, form) as stream:
            content = stream.read(MAX_BYTES)
    except (OSError, EOFError, ValueError):
        return b"", False
    return content.removeprefix(b"\xef\xbb\xbf"), len(content) == MAX_BYTES


def _open(file: Path, form: FileForm) -> BinaryIO:
    if form.compression is None:
        return file.open("rb")
    if form.compression == "gzip":
        return cast(BinaryIO, gzip.open(file, "rb"))
    raise ValueError(f"{form.compression} is not read here")
