"""The record of the input ranges that the documents of shards came from."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distrain.data.shards.manifest import INPUTS


@dataclass(frozen=True)
class RecordedFile:
    """A file as it was when it was read.

    Args:
        name: Path or URL, as in the names of its documents.
        version: Changes with the content: an ETag, a digest, or a time of modification.
    """

    name: str
    size_bytes: int
    version: str


@dataclass(frozen=True)
class RecordedRange:
    """Rows of one file, or all rows of several small ones.

    Args:
        first_row: First row that is read, in the first file.
        rows: Rows read; ``None``: all there are.
        documents: How many of its documents are in these shards. Ranges and documents are in the
            same order, so these counts say which range a document came from.
    """

    files: tuple[RecordedFile, ...]
    first_row: int = 0
    rows: int | None = None
    documents: int = 0

    def to_json(self) -> str:
        """Return the line of ``inputs.jsonl``, without its end."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> "RecordedRange":
        """Read what ``to_json`` wrote."""
        content: dict[str, Any] = json.loads(line)
        content["files"] = tuple(RecordedFile(**file) for file in content["files"])
        return cls(**content)


def read_inputs(folder: Path) -> list[RecordedRange]:
    """Return the input ranges of one source in one split, in the order of its documents."""
    path = folder / INPUTS
    if not path.exists():
        return []
    return [RecordedRange.from_json(line) for line in path.read_bytes().splitlines()]
