"""Ranges of a source: the unit of parallel work, of restart and of reading on the fly.

A cut depends on the files and on ``range_bytes`` alone, never on who reads or how many do. So
everything made of one range is the same wherever and whenever it is made.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.row_request import RowRequest


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file as it was when it was listed.

    Args:
        url: A path as the recipe gives it, or a URL with its protocol.
        size: In bytes, as stored (compressed, if it is).
        version: What changes with the content: the ETag of a store, the modification time in
            nanoseconds of a local file; empty if the store has nothing of the kind.
    """

    url: str
    size: int
    version: str


@dataclass(frozen=True, slots=True)
class InputRange:
    """A run of small whole files, or a part of one big file.

    Args:
        files: In the order in which they are read; exactly one if it is a part.
        start: First byte of plain lines, first row group of parquet.
        stop: The one after the last; None: up to the end.
        first_row: Rows (or lines) of the file that come before ``start``.
    """

    files: tuple[InputFile, ...]
    start: int = 0
    stop: int | None = None
    first_row: int = 0

    def to_record(self) -> dict[str, Any]:
        """Return what JSON can hold; ``from_record`` reads it."""
        return {
            "files": [[file.url, file.size, file.version] for file in self.files],
            "start": self.start,
            "stop": self.stop,
            "first_row": self.first_row,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "InputRange":
        """Read what ``to_record`` returned."""
        files = tuple(InputFile(url, size, version) for url, size, version in record["files"])
        return cls(files, record["start"], record["stop"], record["first_row"])


class RowReader(Protocol):
    """Layer 1's interface below documents and examples: list, cut, read."""

    def files(self) -> list[InputFile]:
        """List what there is to read, in a fixed order.

        Raises:
            DataError: The recipe names something that is not there.
        """
        ...

    def ranges(self, files: Sequence[InputFile]) -> list[InputRange]:
        """Cut ``files``; every row is in exactly one range, and the ranges are in order.

        Big files may be opened for it: lines have to be counted once, so that a row's name can say
        its line.

        Raises:
            DataError: A file changed since it was listed.
        """
        ...

    def rows(self, part: InputRange, request: RowRequest) -> Iterator[SourceRow | Broken]:
        """Yield what one range holds, in order; the same each time.

        Raises:
            DataError: A file changed since it was listed, or cannot be had; or a column that is
                asked for is none.
        """
        ...


def whole_ranges(files: Iterable[InputFile], range_bytes: int) -> list[InputRange]:
    """Cut between files only."""
    return [
        InputRange((item,)) if isinstance(item, InputFile) else item
        for item in group_files(files, range_bytes)
    ]


def group_files(files: Iterable[InputFile], range_bytes: int) -> Iterator[InputFile | InputRange]:
    """Put neighbours together up to ``range_bytes``; a file that is bigger comes as it is."""
    run: list[InputFile] = []
    size = 0
    for file in files:
        # A big file always ends the run before it, so ranges keep the order of the files.
        if run and size + file.size > range_bytes:
            yield InputRange(tuple(run))
            run, size = [], 0
        if file.size > range_bytes:
            yield file
        else:
            run.append(file)
            size += file.size
    if run:
        yield InputRange(tuple(run))
