"""Tables, one document a row: parquet, Arrow files, CSV. Row 0 of a file is its first document.

Arrow columns become strings without a dictionary for each row; only the named columns are read.
"""

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from distrain.config.sources import StoreSection
from distrain.data.sources.document import Broken, Document, decode_document
from distrain.data.sources.lines import label_of, read_lines
from distrain.data.sources.ranges import InputFile, InputRange
from distrain.errors import DataError

BATCH_ROWS = 1024
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
"""The end marker of a complete Arrow stream (Arrow columnar format, IPC streaming)."""


def read_parquet(
    stream: BinaryIO, file: InputFile, part: InputRange, source: StoreSection
) -> Iterator[Document | Broken]:
    """Yield the rows of some row groups; one that cannot be decoded is one ``damaged``.

    Raises:
        DataError: A field of the recipe is no column.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(stream)
    except (pyarrow.ArrowException, OSError):
        yield Broken(file.url, "damaged")
        return
    # Other columns are never read: in Parquet they lie apart, and may be far larger than the text.
    columns = check_columns(table.schema_arrow.names, file.url, source)
    stop = table.num_row_groups if part.stop is None else part.stop
    first = part.first_row
    # One group at a time, so that one that is damaged costs its own rows and no others.
    for group in range(part.start, stop):
        end = first + table.metadata.row_group(group).num_rows
        row = first
        try:
            for batch in table.iter_batches(
                BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
            ):
                yield from from_columns(batch, row, file.url, source)
                row += batch.num_rows
        except (pyarrow.ArrowException, OSError):
            yield Broken(f"{file.url}:{row}-{end - 1}", "damaged")
        first = end


def cut_parquet(stream: BinaryIO, range_bytes: int) -> list[tuple[int, int, int]]:
    """Return (first row group, the one after the last, rows before) of neighbouring row groups.

    Each holds at least ``range_bytes``, uncompressed and of all columns, but the last. A file whose
    footer cannot be read comes back whole, for ``read_parquet`` to report.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.ParquetFile(stream).metadata
    except (pyarrow.ArrowException, OSError):
        return []
    cuts = []
    start = first_row = rows = size = 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        # From the footer alone: nothing has to be decompressed to cut a file.
        size += metadata.row_group(group).total_byte_size
        if size >= range_bytes or group == metadata.num_row_groups - 1:
            cuts.append((start, group + 1, first_row))
            start, first_row, size = group + 1, rows, 0
    return cuts


def read_arrow(
    stream: BinaryIO, file: InputFile, part: InputRange, source: StoreSection
) -> Iterator[Document | Broken]:
    """Yield the rows of an Arrow file or stream (feather, or what ``datasets`` saves).

    Raises:
        DataError: A field of the recipe is no column.
    """
    import pyarrow

    del part  # it is never cut
    row = 0
    try:
        for batch in _arrow_batches(stream, file.url, source):
            # A file may be one batch of millions of rows: not all of them become Python strings at
            # once.
            for offset in range(0, batch.num_rows, BATCH_ROWS):
                some = batch.slice(offset, BATCH_ROWS)
                yield from from_columns(some, row, file.url, source)
                row += some.num_rows
    except (pyarrow.ArrowException, OSError):
        yield Broken(file.url if not row else f"{file.url}:{row}", "damaged")
    except EOFError:
        yield Broken(f"{file.url}:{row}", "truncated")


def read_csv(
    stream: BinaryIO, file: InputFile, part: InputRange, source: StoreSection
) -> Iterator[Document | Broken]:
    """Yield the rows below the line of names (RFC 4180; a quoted field may hold line ends).

    A record of more than ``max_document_bytes`` ends the file as ``damaged``: most likely a quote
    was never closed, and where the next record begins cannot be known.

    Raises:
        DataError: A field of the recipe is no column.
    """
    del part  # it is never cut
    csv.field_size_limit(sys.maxsize)  # of the process; the lines below are bounded instead
    lines = _RecordLines(stream, source.max_document_bytes)
    rows = csv.reader(lines)
    number = -1  # of the line of names
    names: list[str] = []
    while True:
        name = f"{file.url}:{number}" if number >= 0 else file.url
        is_broken = False
        try:
            row = next(rows, None)
        except OverflowError:
            yield Broken(name, "damaged")
            return
        except csv.Error:
            row, is_broken = [], True
        if row is None:
            return
        # A record is complete: the limit holds for each, not for the file.
        lines.taken = 0
        if number < 0:
            names = [item.encode("utf-8", "surrogateescape").decode() for item in row]
            check_columns(names, file.url, source)
        elif is_broken:
            yield Broken(name, "damaged")
        elif row:
            yield _from_csv(dict(zip(names, row, strict=False)), name, source)
        # Blank lines are no rows, and have no number.
        number += bool(row) or is_broken or number < 0


def from_columns(
    batch: Any,  # noqa: ANN401  (a RecordBatch or Table)
    first_row: int,
    url: str,
    source: StoreSection,
) -> Iterator[Document | Broken]:
    """Yield the rows of a batch that begins at row ``first_row`` of its file."""
    texts = _values(batch.column(source.text_field))
    labels: Iterable[Any] = [None] * len(texts)
    if source.label_field is not None:
        labels = map(label_of, _values(batch.column(source.label_field)))
    for row, (text, label) in enumerate(zip(texts, labels, strict=True), start=first_row):
        yield _document(text, label, f"{url}:{row}", source.max_document_bytes)


class _RecordLines:
    """Lines for ``csv.reader``, as long as one record takes no more than ``limit`` bytes."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.taken = 0
        self._limit = limit
        self._lines = read_lines(stream, limit)
        self._is_first = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if line is None or self.taken + len(line) > self._limit:
            raise OverflowError
        self.taken += len(line)
        # Bytes that are not UTF-8 survive as surrogates until their field is looked at.
        text = line.decode("utf-8-sig" if self._is_first else "utf-8", "surrogateescape")
        self._is_first = False
        return text


def _from_csv(row: dict[str, str], name: str, source: StoreSection) -> Document | Broken:
    text = row.get(source.text_field)
    if text is None:
        return Broken(name, "no_text_field")
    label = None if source.label_field is None else row.get(source.label_field)
    if text.isascii() and "\0" not in text:
        return Document(text, name, label)
    content = text.encode("utf-8", "surrogateescape")
    return decode_document(content, name, label)


def _document(text: Any, label: str | None, name: str, limit: int) -> Document | Broken:  # noqa: ANN401
    if isinstance(text, bytes):
        if len(text) > limit:
            return Broken(name, "too_long")
        return decode_document(text, name, label)
    if not isinstance(text, str):
        return Broken(name, "no_text_field")
    # A character has at most four bytes.
    if 4 * len(text) > limit and len(text.encode()) > limit:
        return Broken(name, "too_long")
    return Broken(name, "nul_bytes") if "\0" in text else Document(text, name, label)


def _values(column: Any) -> list[Any]:  # noqa: ANN401  (an Array or ChunkedArray)
    """Return Python values; strings as bytes if one of them is not UTF-8."""
    import pyarrow

    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return list(column.cast(pyarrow.large_binary()).to_pylist())


def _arrow_batches(stream: BinaryIO, url: str, source: StoreSection) -> Iterator[Any]:
    """Yield record batches with the columns that are needed.

    Raises:
        EOFError: A stream without its end.
    """
    import pyarrow
    from pyarrow import ipc

    is_file = stream.read(6) == b"ARROW1"
    stream.seek(0)
    open_ipc = ipc.open_file if is_file else ipc.open_stream
    # Opened twice: columns are chosen by their place in the schema, which has to be read for it.
    names = open_ipc(stream).schema.names
    columns = check_columns(names, url, source)
    stream.seek(0)
    options = ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns])
    reader = open_ipc(stream, options=options)
    if is_file:
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        return
    try:
        yield from reader
    except pyarrow.ArrowInvalid as error:
        # Whether anything is left tells damage from a stream that was cut off.
        if stream.read(1):
            raise
        raise EOFError(url) from error
    stream.seek(-len(STREAM_END), io.SEEK_END)
    if stream.read() != STREAM_END:
        raise EOFError(url)


def check_columns(names: list[str], url: str, source: StoreSection) -> list[str]:
    """Return the columns to read.

    Raises:
        DataError: There is none of that name.
    """
    wanted = {"text_field": source.text_field, "label_field": source.label_field}
    for setting, column in wanted.items():
        if column is not None and column not in names:
            shown = ", ".join(names)
            raise DataError(
                f"data.source.{setting}",
                f"'{column}', while {url} has {shown or 'no fields'}",
                "a field of the rows",
                f"Set data.source.{setting} to one of: {shown}.",
            )
    # Each once, as text and label may be one column.
    return list(dict.fromkeys(column for column in wanted.values() if column is not None))
