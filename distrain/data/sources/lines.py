"""Text that is read as bytes: whole files, lines, JSON lines; and where big files of lines are cut.

A line ends with a line feed and nothing else, so that a cut never depends on what is in a line.
"""

import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, BinaryIO

from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.ranges import InputFile, InputRange
from distrain.data.sources.row_request import RowRequest

BLOCK_BYTES = 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

try:
    import orjson as _orjson
except ImportError:
    _orjson_or_none: ModuleType | None = None
else:
    _orjson_or_none = _orjson


def read_text(
    stream: BinaryIO, file: InputFile, part: InputRange, request: RowRequest
) -> Iterator[SourceRow | Broken]:
    """Yield the whole file as one row."""
    del part  # it is never cut
    content = stream.read(request.max_bytes + 1)
    if len(content) > request.max_bytes:
        yield Broken(file.url, "too_long")
    else:
        yield SourceRow(file.url, {request.text_name: content})


def read_plain_lines(
    stream: BinaryIO, file: InputFile, part: InputRange, request: RowRequest
) -> Iterator[SourceRow | Broken]:
    """Yield each line that is not blank, without its end."""
    for name, line in numbered_lines(stream, file, part, request.max_bytes):
        if line is None:
            yield Broken(name, "too_long")
        elif not line.isspace():
            text = line.removesuffix(b"\n").removesuffix(b"\r")
            yield SourceRow(name, {request.text_name: text})


def read_json_lines(
    stream: BinaryIO, file: InputFile, part: InputRange, request: RowRequest
) -> Iterator[SourceRow | Broken]:
    """Yield what is in each line that is not blank."""
    for name, line in numbered_lines(stream, file, part, request.max_bytes):
        if line is None:
            yield Broken(name, "too_long")
        elif not line.isspace():
            yield row_from_json(line, name)


def numbered_lines(
    stream: BinaryIO, file: InputFile, part: InputRange, limit: int
) -> Iterator[tuple[str, bytes | None]]:
    """Yield the lines of a range with their names; ``notes.jsonl:12`` is line 12 of the file."""
    if part.start:
        stream.seek(part.start)
    length = None if part.stop is None else part.stop - part.start
    for number, line in enumerate(read_lines(stream, limit, length), start=part.first_row + 1):
        if number == 1 and line is not None:
            # A file of nothing but the mark holds a blank line, not the end of the stream.
            line = line.removeprefix(BYTE_ORDER_MARK) or b"\n"
        yield f"{file.url}:{number}", line


def read_lines(stream: BinaryIO, limit: int, length: int | None = None) -> Iterator[bytes | None]:
    """Yield lines with their ends; ``None`` for one of more than ``limit`` bytes.

    Args:
        stream: At the begin of a line.
        limit: A longer line is read past in blocks, so that it never is in memory.
        length: Bytes to read, up to the end of a line; ``None``: all.
    """
    done = 0
    while length is None or done < length:
        # One byte more than allowed tells a line that is too long from one that just fits.
        line = stream.readline(limit + 1)
        if not line:
            return
        done += len(line)
        if len(line) <= limit or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(BLOCK_BYTES)
            done += len(line)
        yield None


def cut_lines(stream: BinaryIO, range_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, lines before start) of stretches of whole lines.

    Each holds at least ``range_bytes``, but the last; it ends at the first line end from there on.
    """
    start = first_line = lines = position = 0
    while block := stream.read(BLOCK_BYTES):
        counted = 0
        while True:
            # The first line end that makes the stretch long enough; lines are counted on the way,
            # because a document's name holds its line in the file.
            earliest = max(counted, start + range_bytes - 1 - position)
            end = block.find(b"\n", earliest) + 1
            lines += block.count(b"\n", counted, end or len(block))
            if not end:
                break
            yield start, position + end, first_line
            start, first_line, counted = position + end, lines, end
        position += len(block)
    if start < position:
        yield start, position, first_line


def label_of(value: Any) -> str | None:  # noqa: ANN401  (whatever a field holds)
    """Return a label as text; ``None`` for what is no label."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return value if isinstance(value, str) else None


def row_from_json(line: bytes, name: str) -> SourceRow | Broken:
    """Read one line; with ``orjson``, where it is installed: it is twice as fast.

    It refuses a little more than ``json`` does (NaN, half of a surrogate pair), so what it refuses
    is asked of ``json``: the result is the same with and without it.
    """
    if _orjson_or_none is not None:
        loads: Callable[[bytes], Any] = _orjson_or_none.loads
        try:
            return SourceRow(name, loads(line))
        except ValueError:
            pass
    try:
        return SourceRow(name, json.loads(line.decode()))
    except UnicodeError:
        return Broken(name, "not_utf8")
    except (ValueError, RecursionError):
        return Broken(name, "not_json")
