"""Records of steps as they are written: one line each, whole after any crash, no step twice.

Of ``metrics.jsonl`` and ``samples.jsonl``.
"""

import logging
from pathlib import Path
from typing import BinaryIO

from distrain.runs.durable import write_text
from distrain.runs.json_lines import read_records
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
    damaged: list[int] = []
    records = [record for record in read_records(path, damaged.append) if STEP in record]
    kept = [record for record in records if step is None or record[STEP] <= step]
    if damaged:
        logger.warning("%s: dropping damaged lines %s", path, damaged)
    text = "".join(json_text(record) + "\n" for record in kept)
    # Compared as bytes, so that a torn line is dropped as well, though no record is.
    if path.exists() and path.stat().st_size != len(text.encode()):
        write_text(path, text)
    return len(records) - len(kept)
