"""Files of this machine or of a store, in any of the formats below.

A format is one function in ``FORMATS``; its file endings stand in ``config/input_files.py``.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, cast

from distrain.config.input_files import ENDINGS, FileForm, form_by_name
from distrain.config.sources import FilesSection
from distrain.data.sources.arrays import read_json
from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.lines import cut_lines, read_json_lines, read_plain_lines, read_text
from distrain.data.sources.paths import list_files
from distrain.data.sources.ranges import InputFile, InputRange, group_files
from distrain.data.sources.row_request import RowRequest
from distrain.data.sources.storage import Storage
from distrain.data.sources.tables import cut_parquet, read_arrow, read_csv, read_parquet
from distrain.errors import DataError

FormatReader = Callable[[BinaryIO, InputFile, InputRange, RowRequest], Iterator[SourceRow | Broken]]
FORMATS: dict[str, FormatReader] = {
    "text": read_text,
    "lines": read_plain_lines,
    "jsonl": read_json_lines,
    "json": read_json,
    "parquet": read_parquet,
    "csv": read_csv,
    "arrow": read_arrow,
}
RANDOM_ACCESS = frozenset({"parquet", "arrow"})
"""They are compressed within, and cannot be read through a compression around them."""
DECOMPRESSED_BYTES = 2**16
"""Decoded at a time: what is lost before the place where a file is damaged, at most."""


class FilesReader:
    """A source of kind ``files``."""

    def __init__(self, source: FilesSection, range_bytes: int) -> None:
        self.source = source
        self.range_bytes = range_bytes
        self.storage = Storage.of(source)

    def files(self) -> list[InputFile]:
        """List the files by path or URL."""
        return list_files(self.source.paths, self.storage)

    def ranges(self, files: Sequence[InputFile]) -> list[InputRange]:
        """Cut big files of lines between lines, big parquet between row groups."""
        found: list[InputRange] = []
        for item in group_files(files, self.range_bytes):
            if isinstance(item, InputRange):
                found.append(item)
            else:
                found += self._cut(item)
        return found

    def rows(self, part: InputRange, request: RowRequest) -> Iterator[SourceRow | Broken]:
        """Yield the rows of one range; ``notes.jsonl:12`` is the one in line 12."""
        for file in part.files:
            yield from read_file(self.storage, file, self._form(file), part, request)

    def _cut(self, file: InputFile) -> list[InputRange]:
        form = self._form(file)
        if form == FileForm("parquet"):
            with self.storage.open(file) as stream:
                cuts = cut_parquet(stream, self.range_bytes)
        elif form in (FileForm("jsonl"), FileForm("lines")):
            with self.storage.open(file) as stream:
                cuts = list(cut_lines(stream, self.range_bytes))
        else:
            cuts = []
        parts = [InputRange((file,), start, stop, first) for start, stop, first in cuts]
        return parts or [InputRange((file,))]

    def _form(self, file: InputFile) -> FileForm:
        return form_of(file.url, self.source.format, self.source.endings)


def form_of(url: str, format_: str | None = None, endings: Mapping[str, str] = ENDINGS) -> FileForm:
    """Read the form of a file from its name, unless the recipe gives the format.

    Raises:
        DataError: A compressed file of a format that needs random access.
    """
    form = form_by_name(url, format_, endings)
    if form.compression is not None and form.format in RANDOM_ACCESS:
        raise DataError(
            url,
            f"{form.format} within {form.compression}",
            f"a plain {form.format} file; it is compressed within",
            "Decompress the file.",
        )
    return form


def read_file(
    storage: Storage, file: InputFile, form: FileForm, part: InputRange, request: RowRequest
) -> Iterator[SourceRow | Broken]:
    """Yield the rows of one file of a range.

    Raises:
        DataError: The file changed since it was listed, or its store does not hand it over.
    """
    read = FORMATS[form.format]
    # By its size alone, before a byte of it is asked for; longer lines are met while reading.
    if form in (FileForm("text"), FileForm("json")) and file.size > request.max_bytes:
        yield Broken(file.url, "too_long")
        return
    try:
        with storage.open(file) as stream:
            if form.compression is None:
                yield from read(stream, file, part, request)
            elif not file.size:
                yield Broken(file.url, "truncated")  # even nothing has a header, once compressed
            else:
                yield from _read_compressed(stream, file, form, part, request)
    except OSError:
        yield Broken(file.url, "unreadable")


def _read_compressed(
    stream: BinaryIO, file: InputFile, form: FileForm, part: InputRange, request: RowRequest
) -> Iterator[SourceRow | Broken]:
    """Yield what comes before the end, or before the place where no more can be decoded."""
    import pyarrow

    compressed = pyarrow.PythonFile(stream, mode="r")
    plain = pyarrow.CompressedInputStream(compressed, form.compression)
    try:
        with io.BufferedReader(plain, DECOMPRESSED_BYTES) as decoded:
            yield from FORMATS[form.format](cast(BinaryIO, decoded), file, part, request)
    except OSError as error:
        yield Broken(file.url, "truncated" if "Truncated" in str(error) else "damaged")
