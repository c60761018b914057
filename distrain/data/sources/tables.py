"""Tables: parquet, Arrow files, CSV. Row 0 of a file is the first one.

Only the columns that are asked for are read.
"""

import csv
import io
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.lines import read_lines
from distrain.data.sources.ranges import InputFile, InputRange
from distrain.data.sources.row_request import RowRequest
from distrain.errors import DataError

BATCH_ROWS = 1024
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
"""The end marker of a complete Arrow stream (Arrow columnar format, IPC streaming)."""


def read_parquet(
    stream: BinaryIO, file: InputFile, part: InputRange, request: RowRequest
) -> Iterator[SourceRow | Broken]:
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
    columns = check_columns(table.schema_arrow.names, file.url, request)
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
                yield from from_columns(batch, row, file.url)
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
    stream: BinaryIO, file: InputFile, part: InputRange, request: RowRequest
) -> Iterator[SourceRow | Broken]:
    """Yield the rows of an Arrow file or stream (feather, or what ``datasets`` saves).

    Raises:
        DataError: A field of the recipe is no column.
    """
    import pyarrow

    del part  # it is never cut
    row = 0
    try:
        for batch in _arrow_batches(stream, file.url, request):
            # A file may be one batch of millions of rows: not all of them become Python strings at
            # once.
            for offset in range(0, batch.num_rows, BATCH_ROWS):
                some = batch.slice(offset, BATCH_ROWS)
                yield from from_columns(some, row, file.url)
                row += some.num_rows
    except (pyarrow.ArrowException, OSError):
        yield Broken(file.url if not row else f"{file.url}:{row}", "damaged")
    except EOFError:
        yield Broken(f"{file.url}:{row}", "truncated")


def read_csv(
    stream: BinaryIO, file: InputFile, part: InputRange, request: RowRequest
) -> Iterator[SourceRow | Broken]:
    """Yield the rows below the line of names (RFC 4180; a quoted field may hold line ends).

    A record of more than ``max_bytes`` ends the file as ``damaged``: most likely a quote
    was never closed, and where the next record begins cannot be known.

    Raises:
        DataError: A field of the recipe is no column.
    """
    del part  # it is never cut
    csv.field_size_limit(sys.maxsize)  # of the process; the lines below are bounded instead
    lines = _RecordLines(stream, request.max_bytes)
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
            check_columns(names, file.url, request)
        elif is_broken:
            yield Broken(name, "damaged")
        elif row:
            yield SourceRow(
                name, {key: _decoded(text) for key, text in zip(names, row, strict=False)}
            )
        # Blank lines are no rows, and have no number.
        number += bool(row) or is_broken or number < 0


def from_columns(
    batch: Any,  # noqa: ANN401  (a RecordBatch or Table)
    first_row: int,
    url: str,
) -> Iterator[SourceRow]:
    """Yield the rows of a batch that begins at row ``first_row`` of its file."""
    names = batch.schema.names
    columns = [_values(column) for column in batch.columns]
    for row, values in enumerate(zip(*columns, strict=True), start=first_row):
        yield SourceRow(f"{url}:{row}", dict(zip(names, values, strict=True)), has_filler=True)


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


def _decoded(text: str) -> str | bytes:
    """Return a field of a CSV; as bytes if it is not UTF-8."""
    if text.isascii():
        return text
    content = text.encode("utf-8", "surrogateescape")
    try:
        content.decode()
    except UnicodeDecodeError:
        return content
    return text


def _values(column: Any) -> list[Any]:  # noqa: ANN401  (an Array or ChunkedArray)
    """Return Python values; strings as bytes if one of them is not UTF-8."""
    import pyarrow

    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return list(column.cast(pyarrow.large_binary()).to_pylist())


def _arrow_batches(stream: BinaryIO, url: str, request: RowRequest) -> Iterator[Any]:
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
    columns = check_columns(names, url, request)
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


def check_columns(names: list[str], url: str, request: RowRequest) -> list[str]:
    """Return the columns to read.

    Raises:
        DataError: There is none of that name.
    """
    if request.columns is None:
        return names
    for setting, column in request.columns.items():
        if column not in names:
            shown = ", ".join(names)
            raise DataError(
                f"data.source.{setting}",
                f"'{column}', while {url} has {shown or 'no fields'}",
                "a field of the rows",
                f"Set data.source.{setting} to one of: {shown}.",
            )
    # Each once, as text and label may be one column.
    return list(dict.fromkeys(request.columns.values()))
