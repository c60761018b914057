"""``metrics.jsonl`` as it is written: one line a record, whole after any crash, no step twice."""

import json
import logging
from pathlib import Path
from typing import Any, BinaryIO

from distrain.runs.durable import write_text
from distrain.runs.records import STEP, Record, json_text

logger = logging.getLogger(__name__)


class MetricsFile:
    """Appends records to a file that stays open; one system call a record.

    Opening drops a last line that a crash cut short: what follows must not be glued to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        truncate_after(path, None)
        self._file: BinaryIO = path.open("ab")

    def append(self, record: Record) -> None:
        """Write one record; the kernel has it when this returns."""
        self._file.write((json_text(record) + "\n").encode())
        self._file.flush()

    def truncate_after(self, step: int) -> int:
        """Truncate with the function ``truncate_after``, then reopen for appending."""
        self._file.close()
        dropped = truncate_after(self.path, step)
        self._file = self.path.open("ab")
        return dropped

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def truncate_after(path: Path, step: int | None) -> int:
    """Drop the records after ``step``, and damaged lines, in one replacement.

    A crash cuts the last line short; a power loss may also lose what lies before it.

    Args:
        path: A metrics file; it need not exist.
        step: The last one to keep; ``None`` keeps all whole records.

    Returns:
        How many whole records were dropped.
    """
    if not path.exists():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    records = [record for record in map(_record, lines) if record is not None]
    kept = [record for record in records if step is None or record[STEP] <= step]
    damaged = [number for number, line in enumerate(lines, start=1) if _record(line) is None]
    if damaged and damaged != [len(lines)]:
        logger.warning("%s: dropping damaged lines %s", path, damaged)
    if len(kept) < len(lines):
        write_text(path, "".join(json_text(record) + "\n" for record in kept))
    return len(records) - len(kept)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) and STEP in record else None
