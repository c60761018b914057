"""The standard library's own sources: about ten megabytes of real text that every machine has."""

import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from distrain.config.input_files import FileForm
from distrain.config.sources import PythonStdlibSource, RetriesConfig
from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.files import read_file
from distrain.data.sources.ranges import InputFile, InputRange, whole_ranges
from distrain.data.sources.row_request import RowRequest
from distrain.data.sources.storage import Storage, local_file
from distrain.errors import DataError


class PythonStdlibReader:
    """A source of kind ``python_stdlib``; documents have names such as ``json/decoder.py``."""

    def __init__(self, source: PythonStdlibSource, range_bytes: int) -> None:
        self.source = source
        self.range_bytes = range_bytes
        self._root = Path(sysconfig.get_path("stdlib"))
        self._storage = Storage({}, RetriesConfig())

    def files(self) -> list[InputFile]:
        """List the modules by path.

        Raises:
            DataError: This interpreter comes without sources.
        """
        files = modules(self._root, frozenset(self.source.exclude))
        if not files:
            raise DataError(
                "data.source",
                f"no Python sources in {self._root}",
                "the standard library as .py files",
                "Use a Python that comes with its sources, or a source of kind files.",
            )
        return [local_file(file) for file in files]

    def ranges(self, files: Sequence[InputFile]) -> list[InputRange]:
        """Cut between modules."""
        return whole_ranges(files, self.range_bytes)

    def rows(self, part: InputRange, request: RowRequest) -> Iterator[SourceRow | Broken]:
        """Yield the modules of one range."""
        for file in part.files:
            name = Path(file.url).relative_to(self._root).as_posix()
            for found in read_file(self._storage, file, FileForm("text"), part, request):
                yield replace(found, path=name)


def modules(root: Path, exclude: frozenset[str]) -> list[Path]:
    """List the ``.py`` files under ``root``, without those in folders of the names ``exclude``."""
    found = []
    for folder, subfolders, names in os.walk(root):
        # In place: ``os.walk`` goes down into what is left of this list.
        subfolders[:] = [name for name in subfolders if name not in exclude]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())
