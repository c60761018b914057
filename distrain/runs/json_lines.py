"""The one reader of a run's JSONL files: metrics, events, rejections.

A last line without its end is one that a crash cut short, or one being written: it is left out,
and nothing is said of it. A whole line that is no JSON object, such as the zeros that a power loss
leaves, is passed over, and its number given to those who ask. Nobody who only looks may fail on it.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

TAIL_BYTES = 65536
"""Of ``metrics.jsonl``: room for more than a hundred records."""

OnDamage = Callable[[int], object]
"""Takes the number of a line, from 1."""


def parse_records(
    lines: Iterable[bytes], on_damage: OnDamage | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the records of lines that still have their ends."""
    for number, line in enumerate(lines, start=1):
        # Only the last one can be without.
        if not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            yield record
        elif on_damage is not None:
            on_damage(number)


def read_records(path: Path, on_damage: OnDamage | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSONL file, line by line; nothing if it does not exist."""
    try:
        lines = path.open("rb")
    except FileNotFoundError:
        return
    with lines:
        yield from parse_records(lines, on_damage)


def last_records(path: Path) -> list[dict[str, Any]]:
    """Return the last records of a JSONL file, without reading all of it."""
    try:
        with path.open("rb") as file:
            start = max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0)
            file.seek(start)
            if start:
                file.readline()  # a part of one, most likely
            return list(parse_records(file))
    except FileNotFoundError:
        return []


class RecordTail:
    """New whole records of a growing JSONL file.

    A stage that goes back to a checkpoint replaces its file by one that holds each step once; such
    a file is read again from its beginning, and the caller tells old records by their times.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_id: tuple[int, int] | None = None
        self._offset = 0
        self.is_anew = False
        """Whether the last call read a file that had taken the place of another, from its start."""

    def poll(self) -> list[dict[str, Any]]:
        """Return the records since the last call; a line still being written is left for later."""
        try:
            with self._path.open("rb") as file:
                return self._read(file)
        except FileNotFoundError:
            return []

    def _read(self, file: BinaryIO) -> list[dict[str, Any]]:
        status = os.fstat(file.fileno())
        file_id = (status.st_dev, status.st_ino)
        self.is_anew = False
        if file_id != self._file_id or status.st_size < self._offset:
            self.is_anew = self._file_id is not None
            self._file_id, self._offset = file_id, 0
        file.seek(self._offset)
        data: bytes = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return list(parse_records(whole.splitlines(keepends=True)))
