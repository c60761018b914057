"""Layer 1: where raw text comes from. A source is one file here and one line in ``SOURCES``.

A source lists its files, cuts them into ranges and reads the rows of one range (``ranges.py``); it
reads the same rows in the same order every time, wherever that is. Documents are made of rows by
``documents.py``, examples of fine-tuning by ``distrain/data/chats``.
"""

from collections.abc import Callable, Iterator
from typing import Any

from distrain.config.chats import ChatSource
from distrain.config.sources import StoreSection, TextFields, TextSource
from distrain.data.sources.datasets import DatasetsReader
from distrain.data.sources.docstrings import DocstringsReader
from distrain.data.sources.document import Broken, Document
from distrain.data.sources.documents import DocumentReader
from distrain.data.sources.files import FilesReader
from distrain.data.sources.hub import HubReader
from distrain.data.sources.machine import MachineChatsReader, MachineTextsReader
from distrain.data.sources.python_stdlib import PythonStdlibReader
from distrain.data.sources.ranges import RowReader

SOURCES: dict[str, Callable[[Any, int], RowReader]] = {
    "python_stdlib": PythonStdlibReader,
    "files": FilesReader,
    "datasets": DatasetsReader,
    "hub": HubReader,
    "python_docstrings": DocstringsReader,
    "machine_texts": MachineTextsReader,
    "machine_chats": MachineChatsReader,
}
RANGE_BYTES = 64 * 2**20


def open_source(source: TextSource, range_bytes: int = RANGE_BYTES) -> DocumentReader:
    """Return the reader of a section of the recipe; nothing is looked at yet.

    Args:
        source: The section.
        range_bytes: How big a range is, about; the only setting that ranges depend on.
    """
    fields = source if isinstance(source, TextFields) else TextFields()
    store = source if isinstance(source, StoreSection) else StoreSection()
    return DocumentReader(open_rows(source, range_bytes), fields, store.max_document_bytes)


def open_rows(source: TextSource | ChatSource, range_bytes: int = RANGE_BYTES) -> RowReader:
    """Return the reader of the rows of a section; nothing is looked at yet."""
    return SOURCES[source.kind](source, range_bytes)


def read_source(source: TextSource) -> Iterator[Document | Broken]:
    """Yield what ``source`` holds, in a fixed order: all its ranges.

    Raises:
        DataError: It is not there, or not what the recipe says.
    """
    reader = open_source(source)
    for part in reader.ranges(reader.files()):
        yield from reader.read(part)
