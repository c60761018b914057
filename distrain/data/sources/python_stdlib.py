"""The standard library's own sources: about ten megabytes of real text that every machine has."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from distrain.config.sources import PythonStdlibSource
from distrain.data.document import Broken, Document, read_document
from distrain.errors import DataError


def read_python_stdlib(source: PythonStdlibSource) -> Iterator[Document | Broken]:
    """Yield the modules by path, such as ``json/decoder.py``.

    Raises:
        DataError: This interpreter comes without sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = modules(root, frozenset(source.exclude))
    if not files:
        raise DataError(
            "data.source",
            f"no Python sources in {root}",
            "the standard library as .py files",
            "Use a Python that comes with its sources, or a source of kind files.",
        )
    for file in files:
        yield read_document(file, file.relative_to(root).as_posix())


def modules(root: Path, exclude: frozenset[str]) -> list[Path]:
    """List the ``.py`` files under ``root``, without those in folders of the names ``exclude``."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in exclude]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())
