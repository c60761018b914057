"""What ``distrain data sample --stage`` prints: an example with what is trained on marked."""

import os
import sys
from typing import Any

from launcher.commands.data_text import visible
from launcher.text import plural

Record = dict[str, Any]

BEGIN, END = "[[", "]]"
"""Around what is trained on, where there is no colour."""
COLOUR, PLAIN = "\x1b[1;32m", "\x1b[0m"


def has_colour() -> bool:
    """Return whether what is printed may be coloured: on a terminal, unless NO_COLOR is set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def example_text(record: Record, *, coloured: bool) -> str:
    """Write one example: a line about it, then its text."""
    head = f"--- {record['stage']}: {record['split']}/{record['source']}, {record['path']}, "
    head += f"{plural(record['tokens'], 'token')}, {record['trained']:,} trained on"
    lines = [visible(head)]
    if record["left"]:
        lines.append(f"{plural(record['left'], 'token')} before this (--max-tokens 0 shows all)")
    begin, end = (COLOUR, PLAIN) if coloured else (BEGIN, END)
    text, is_open = "", False
    for piece in record["pieces"]:
        if piece["trained"] is not is_open:
            text += begin if piece["trained"] else end
            is_open = piece["trained"]
        shown = piece.get("text")
        text += visible(f"[{piece['control']} {piece['id']}]" if shown is None else shown)
    lines.append(text + (end if is_open else ""))
    for token, name, is_trained in record.get("ids", ()):
        lines.append(f"{token:>8}  {'*' if is_trained else ' '} {visible(name)}")
    return "\n".join(lines)
