"""Elements of a file of JSON with the lines that they begin in. Pure."""

import json
from collections.abc import Iterator
from typing import Any

WHITE_SPACE = " \t\n\r"
"""Of JSON (RFC 8259, section 2)."""


class JsonElementError(ValueError):
    """A place that is no JSON.

    Args:
        line: Where it is, or the element begins that is none.
        is_end: Whether the text ends before its array does.
    """

    def __init__(self, line: int, *, is_end: bool = False) -> None:
        super().__init__(f"no JSON in line {line}")
        self.line = line
        self.is_end = is_end


def elements(text: str) -> Iterator[tuple[int, Any]]:
    """Yield the elements of an array, or values one after the other, each with its line.

    One at a time: of an array that is decoded at once, no place would be known.

    Raises:
        JsonElementError: When everything before the first place that is no JSON was yielded.
    """
    decode = json.JSONDecoder().raw_decode
    place = _skip(text, 0)
    is_array = text.startswith("[", place)
    place = _skip(text, place + is_array)
    line, counted = 1, 0
    while place < len(text) and not (is_array and text[place] == "]"):
        line += text.count("\n", counted, place)
        counted = place
        try:
            value, place = decode(text, place)
        except (ValueError, RecursionError) as error:
            raise JsonElementError(line) from error
        yield line, value
        place = _skip(text, place)
        if is_array and text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif is_array and text[place : place + 1] not in ("]", ""):
            raise JsonElementError(line + text.count("\n", counted, place))
    line += text.count("\n", counted, place)
    if is_array and place >= len(text):
        raise JsonElementError(line, is_end=True)
    if text[place + is_array :].strip(WHITE_SPACE):
        raise JsonElementError(line)


def _skip(text: str, place: int) -> int:
    """Return the next place that is no white space."""
    while place < len(text) and text[place] in WHITE_SPACE:
        place += 1
    return place
