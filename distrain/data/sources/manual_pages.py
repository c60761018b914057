"""Manual pages as plain text: what roff's macros say about the look of a page is left out.

Of pages for the macros ``man``, which most are. Those for ``mdoc`` (their text is made by macros)
give nothing, and neither do pages that only name another one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

CHARACTERS = {
    **dict.fromkeys(("aq", "oq", "cq"), "'"),
    **dict.fromkeys(("dq", "lq", "rq"), '"'),
    **dict.fromkeys(("em", "en", "hy", "mi"), "-"),
    "ga": "`",
    "ha": "^",
    "bu": "*",
    "rs": "\\",
    "ti": "~",
}
"""Named characters of roff, as ASCII; others are left out."""
ESCAPE = re.compile(
    r'\\(?:"(?P<comment>.*)'
    r"|f(?:\[[^\]]*\]|\(..|.)|s[-+]?\d+|[hvwlLNoxXZ]'[^']*'|[mMF](?:\[[^\]]*\]|\(..|.)"
    r"|\*?\((?P<two>..)|\*?\[(?P<long>[^\]]*)\]|\*(?P<string>.)"
    r"|(?P<one>.))"
)
ONE_CHARACTER = {"-": "-", "e": "\\", " ": " ", "~": " ", "0": " ", "'": "'", "`": "`", ".": "."}
JOINED = frozenset({"BR", "RB", "BI", "IB", "IR", "RI"})
"""Macros that set their words in two fonts, without a space between them."""
FONTS = frozenset({"B", "I", "SM", "SB"})
PARAGRAPHS = frozenset({"PP", "P", "LP", "HP", "TP", "TQ", "IP", "sp"})
AS_IT_STANDS = {"nf": True, "EX": True, "fi": False, "EE": False}
"""Macros -> whether the lines behind them are kept apart."""
BLOCKS = {"de": "..", "ig": "..", "TS": ".TE", "EQ": ".EN", "PS": ".PE"}
"""Beginning of what is no running text (definitions, tables, equations) -> the line of its end."""
WORDS = re.compile(r'"([^"]*)"|(\S+)')


@dataclass(frozen=True, slots=True)
class ManualPage:
    """A page without its macros.

    Args:
        summary: What stands behind the names in its first section.
        text: All of it, headings on lines of their own.
    """

    summary: str
    text: str


def read_page(roff: str) -> ManualPage | None:
    """Return the text of a page; ``None`` for one that has no line about what it describes."""
    lines = list(_lines(roff))
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    heading, _, rest = text.partition("\n")
    first = re.split(r"\n\n", rest.lstrip("\n"), maxsplit=1)[0]
    names, separator, summary = " ".join(first.split()).partition(" - ")
    if heading.upper() != "NAME" or not names or not separator or not summary:
        return None
    return ManualPage(summary, text)


@dataclass
class _Text:
    """What has been read so far: lines that belong together are joined, as roff fills them."""

    lines: list[str] = field(default_factory=list)
    keeps_lines: bool = False
    continues: bool = False
    """Whether the next words belong to the last line."""
    is_tag: bool = False
    """Whether the next line is what ``TP`` sets apart."""

    def add(self, words: str) -> None:
        if self.continues and self.lines:
            self.lines[-1] += f" {words}"
        else:
            self.lines.append(words)
        self.continues = bool(words) and not (self.keeps_lines or self.is_tag)
        self.is_tag = False

    def end_paragraph(self, heading: Iterable[str] = ()) -> None:
        self.lines += ["", *heading]
        self.continues = False

    def macro(self, name: str, rest: str) -> None:
        if name in JOINED:
            self.add("".join(_words(rest)))
        elif name in FONTS:
            self.add(" ".join(_words(rest)))
        elif name in PARAGRAPHS:
            self.end_paragraph(_words(rest)[:1] if name == "IP" else ())
            self.is_tag = name in ("TP", "TQ")
        elif name in AS_IT_STANDS:
            self.keeps_lines, self.continues = AS_IT_STANDS[name], False
        elif name == "br":
            self.continues = False


def _lines(roff: str) -> list[str]:
    found, until, has_begun = _Text(), "", False
    for line in roff.splitlines():
        if until:
            until = "" if line.startswith(until) else until
            continue
        if line[:1] not in ".'":
            if has_begun:
                found.add(plain(line).rstrip())
            continue
        name, _, rest = line[1:].strip().partition(" ")
        if name in BLOCKS:
            until = BLOCKS[name]
        elif name == "el" and rest.rstrip().endswith("\\{\\"):
            until = ".\\}"  # for typesetters; the branch before it was for terminals
        elif name in ("SH", "SS"):
            has_begun = True
            found.end_paragraph(["", " ".join(_words(rest)), ""])
        elif has_begun:
            found.macro(name, rest)
    return found.lines


def _words(rest: str) -> list[str]:
    # Quotes hold words together; a comment ends the line.
    found = WORDS.finditer(rest.partition('\\"')[0])
    return [plain(quoted if word is None else word) for quoted, word in map(re.Match.groups, found)]


def plain(line: str) -> str:
    """Return a line without roff's escapes."""
    return ESCAPE.sub(_replaced, line) if "\\" in line else line


def _replaced(match: re.Match[str]) -> str:
    name = match["two"] or match["long"]
    if name is not None:
        return CHARACTERS.get(name, "")
    one = match["one"]
    return "" if one is None else ONE_CHARACTER.get(one, "")
