"""Layer 1: where raw text comes from. A source is one file here and one line in ``SOURCES``.

A source lists its files, cuts them into ranges and reads one range (``ranges.py``); it reads the
same documents in the same order every time, wherever that is.
"""

from collections.abc import Callable, Iterator
from typing import Any

from distrain.config.sources import TextSource
from distrain.data.sources.datasets import DatasetsReader
from distrain.data.sources.document import Broken, Document
from distrain.data.sources.files import FilesReader
from distrain.data.sources.hub import HubReader
from distrain.data.sources.python_stdlib import PythonStdlibReader
from distrain.data.sources.ranges import SourceReader

SOURCES: dict[str, Callable[[Any, int], SourceReader]] = {
    "python_stdlib": PythonStdlibReader,
    "files": FilesReader,
    "datasets": DatasetsReader,
    "hub": HubReader,
}
RANGE_BYTES = 64 * 2**20


def open_source(source: TextSource, range_bytes: int = RANGE_BYTES) -> SourceReader:
    """Return the reader of a section of the recipe; nothing is looked at yet.

    Args:
        source: The section.
        range_bytes: How big a range is, about; the only setting that ranges depend on.
    """
    return SOURCES[source.kind](source, range_bytes)


def read_source(source: TextSource) -> Iterator[Document | Broken]:
    """Yield what ``source`` holds, in a fixed order: all its ranges.

    Raises:
        DataError: It is not there, or not what the recipe says.
    """
    reader = open_source(source)
    for part in reader.ranges(reader.files()):
        yield from reader.read(part)
