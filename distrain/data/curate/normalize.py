"""One way to write a text, so that equal texts are equal bytes."""

import re
import unicodedata

# Without tab and line feed: what is left of C0, DEL, and the byte order mark.
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufeff]")


def normalize(text: str) -> str:
    r"""Return ``text`` in NFC, with ``\n`` for every end of line and no white space before one.

    Control characters go, and blank lines at both ends. Applied twice it changes nothing more.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", CONTROL_CHARACTERS.sub("", text))
    # A regular expression for this takes quadratic time on a long run of spaces.
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")
