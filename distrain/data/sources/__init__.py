"""Layer 1: where raw text comes from. A source is one file here and one line in ``SOURCES``.

A source reads the same documents in the same order every time; layer 2 reads it more than once.
"""

from collections.abc import Callable, Iterator
from typing import Any

from distrain.config.sources import Source
from distrain.data.document import Broken, Document
from distrain.data.sources.datasets import read_datasets
from distrain.data.sources.files import read_files
from distrain.data.sources.python_stdlib import read_python_stdlib

SOURCES: dict[str, Callable[[Any], Iterator[Document | Broken]]] = {
    "python_stdlib": read_python_stdlib,
    "files": read_files,
    "datasets": read_datasets,
}


def read_source(source: Source) -> Iterator[Document | Broken]:
    """Yield what ``source`` holds, in a fixed order.

    Raises:
        DataError: It is not there, or not what the recipe says.
    """
    return SOURCES[source.kind](source)
