"""Files of JSON: an array of objects, or objects one after the other."""

from collections.abc import Iterator
from typing import BinaryIO

from distrain.config.json_elements import JsonElementError, elements
from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.ranges import InputFile, InputRange
from distrain.data.sources.row_request import RowRequest


def read_json(
    stream: BinaryIO, file: InputFile, part: InputRange, request: RowRequest
) -> Iterator[SourceRow | Broken]:
    """Yield the elements of the array in a file; ``chats.json:12`` is the one that begins there.

    A file that holds objects without an array around them, such as lines of JSON, is read as well.
    The first place that is no JSON ends the file as ``not_json``.
    """
    del part  # it is never cut
    content = stream.read(request.max_bytes + 1)
    if len(content) > request.max_bytes:
        yield Broken(file.url, "too_long")
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield Broken(file.url, "not_utf8")
        return
    try:
        for line, value in elements(text):
            yield SourceRow(f"{file.url}:{line}", value)
    except JsonElementError as error:
        yield Broken(f"{file.url}:{error.line}", "truncated" if error.is_end else "not_json")
