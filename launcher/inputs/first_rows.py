"""The first rows of a file of JSON lines, and the names of a table's columns."""

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from distrain.config.input_files import FileForm

MAX_BYTES = 2**18
"""Read of each file; a row that is longer is not judged."""
MAX_ROWS = 200


def first_rows(file: Path, form: FileForm) -> Iterator[tuple[int, Any]]:
    """Yield line number and content of the first rows that are not blank.

    The content is a ``ValueError`` where a line is no JSON. Nothing is yielded of a file that this
    machine cannot read or decompress: that is judged where it is prepared.
    """
    number = rows = 0
    for line in _whole_lines(file, form):
        number += 1
        if not line.strip():
            continue
        rows += 1
        if rows > MAX_ROWS:
            return
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, ValueError(str(error))


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
    try:
        with _open(file, form) as stream:
            content = stream.read(MAX_BYTES)
    except (OSError, EOFError, ValueError):
        return []
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    # What was cut off in the middle is no line, and might be no JSON for that alone.
    return lines[:-1] if len(content) == MAX_BYTES else lines


def _open(file: Path, form: FileForm) -> BinaryIO:
    if form.compression is None:
        return file.open("rb")
    if form.compression == "gzip":
        return cast(BinaryIO, gzip.open(file, "rb"))
    raise ValueError(f"{form.compression} is not read here")
