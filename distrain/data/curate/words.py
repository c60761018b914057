"""One look at a text: its lines, and one word split that every filter and every sketch shares.

The split and the hashes are computed by numpy over the text's code points, and no word is a Python
string, which is what lets curation keep up with the tokenizer; ``TextView.words`` cuts the strings
out for whoever needs them.

A word is one of four. A run of letters, digits, combining marks and underscores, in which an
apostrophe between two letters and a point or comma between two digits have part (``don't``,
``1,000.5``). An address (``https://...``), whose parts would else count as repeated phrases. A run
of one and the same ideograph or kana. A run of one and the same other character (``(``, ``...``):
punctuation. White space separates words and belongs to none.
"""

import functools
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from distrain.data.curate.characters import (
    ALPHABETIC,
    ASCII_LIMIT,
    DIGIT,
    LEXICAL,
    NARROW_LIMIT,
    SPACE,
    UNICODE_LIMIT,
    WORD,
    CharacterTables,
    Codes,
    character_tables,
)

WORDS_VERSION = 1
"""Part of the fingerprint of a corpus: raise it when the same text gives other words or hashes."""

CHUNK_CHARACTERS = 1 << 15
"""The split works on stretches of this length, whose temporary arrays stay in the cache."""

_CHARACTER_FACTOR = 0xD1342543DE82EF95
WORD_FACTOR = np.uint64(0xAF251AF3B0F025B5)
ADDRESSES = re.compile(r"""(?:https?|ftp)://[^\s<>"'`()\[\]{}|]*[\w/]""")
_PARAGRAPH_ENDS = re.compile(r"\n{2,}")
_APOSTROPHE, _COMMA, _POINT, _QUOTE = (ord(mark) for mark in "',.\u2019")

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Words:
    """The words of a text, in order.

    Args:
        starts: Character at which each starts, int64.
        ends: Character after its last.
        flags: Those of its first character (``characters.py``).
        hashes: Of the word as it is written.
        lower_hashes: Of its lower-case form.
    """

    starts: Positions
    ends: Positions
    flags: NDArray[np.uint8]
    hashes: Hashes
    lower_hashes: Hashes

    @cached_property
    def lengths(self) -> Positions:
        """Characters of each word."""
        return self.ends - self.starts

    @cached_property
    def lexical(self) -> NDArray[np.bool_]:
        """Whether each is a word proper, not punctuation; shape (words,)."""
        lexical: NDArray[np.bool_] = (self.flags & LEXICAL) != 0
        return lexical


class TextView:
    """A text and what is computed from it once, when it is first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def split(self) -> Words:
        """The word split with its hashes."""
        return split_words(self.text)

    @cached_property
    def words(self) -> list[str]:
        """The words as strings, punctuation among them."""
        bounds = zip(self.split.starts.tolist(), self.split.ends.tolist(), strict=True)
        return [self.text[start:end] for start, end in bounds]

    @property
    def word_hashes(self) -> Hashes:
        """64 bits for each word as it is written, punctuation among them."""
        return self.split.hashes

    def ngram_hashes(self, n: int) -> Hashes:
        """64 bits for each run of ``n`` words as they are written; none if there are fewer."""
        return roll(self.split.hashes, n)

    def shingle_hashes(self, n: int) -> Hashes:
        """64 bits for each run of ``n`` lower-case words without punctuation, for sketches.

        A text of fewer words, but at least one, has one shingle: all of it.
        """
        words = self.split.lower_hashes[self.split.lexical]
        return roll(words, min(n, max(words.size, 1)))

    @cached_property
    def lines(self) -> list[str]:
        r"""Lines with something other than white space in them, cut at ``\n``."""
        return [line for line in self.text.split("\n") if line and not line.isspace()]

    @cached_property
    def paragraphs(self) -> list[str]:
        """The stretches between blank lines."""
        return _PARAGRAPH_ENDS.split(self.text.strip())


def roll(hashes: Hashes, n: int) -> Hashes:
    """Hash each run of ``n`` consecutive hashes: a polynomial modulo 2^64, by Horner's rule."""
    count = max(hashes.size - n + 1, 0)
    rolled = hashes[:count]
    for offset in range(1, n):
        rolled = rolled * WORD_FACTOR + hashes[offset : offset + count]
    return rolled


def split_words(text: str) -> Words:
    """Split and hash a text of any length; halves of surrogate pairs count as punctuation."""
    pieces: list[Words] = []
    for start, end in _chunks(text):
        pieces.append(_split_chunk(text[start:end], start))
    if len(pieces) == 1:
        return pieces[0]
    fields = ("starts", "ends", "flags", "hashes", "lower_hashes")
    return Words(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in fields))


def _chunks(text: str) -> list[tuple[int, int]]:
    """Cut at white space, or, in a word as long as a chunk, anywhere."""
    cuts = [0]
    while len(text) - cuts[-1] > CHUNK_CHARACTERS:
        limit = cuts[-1] + CHUNK_CHARACTERS
        # From the next character on, or a chunk that begins with the white space would be empty.
        cut = max(text.rfind(" ", cuts[-1] + 1, limit), text.rfind("\n", cuts[-1] + 1, limit))
        cuts.append(cut if cut > 0 else limit)
    return list(zip(cuts, [*cuts[1:], len(text)], strict=True))


def _split_chunk(text: str, offset: int) -> Words:
    codes, tables = _codes(text)
    group = tables.group[codes]
    _join_marks(codes, group, tables)
    # Chunks are cut at white space wherever there is any, so an address is hardly ever cut in two.
    if "://" in text:
        for address in ADDRESSES.finditer(text):
            group[address.start() : address.end()] = WORD
    bounds = np.empty(len(text) + 1, np.bool_)
    bounds[0] = bounds[-1] = True
    np.not_equal(group[1:], group[:-1], out=bounds[1:-1])
    cuts = np.flatnonzero(bounds if text else bounds[:0])
    inside = group[cuts[:-1]] != SPACE
    starts, ends = cuts[:-1][inside], cuts[1:][inside]
    flags = tables.flags[codes[starts]]
    hashes = _hash_spans(tables.hashes[codes], starts, ends)
    lower_hashes = _hash_spans(tables.lower_hashes[codes], starts, ends)
    return Words(starts + offset, ends + offset, flags, hashes, lower_hashes)


def _codes(text: str) -> tuple[Codes, CharacterTables]:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8), character_tables(ASCII_LIMIT)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    narrow = int(codes.max()) < NARROW_LIMIT
    return codes, character_tables(NARROW_LIMIT if narrow else UNICODE_LIMIT)


def _join_marks(
    codes: Codes,
    group: Codes,
    tables: CharacterTables,
) -> None:
    """Let apostrophes between letters, and points and commas between digits, be of the word."""
    candidates = (group == _APOSTROPHE) | (group == _COMMA) | (group == _POINT)
    # Tables of ASCII have groups of one byte, which a typographic quote does not fit into.
    if group.dtype == np.uint32:
        candidates |= group == _QUOTE
    # One with a neighbour on both sides, for only those can join.
    marks = np.flatnonzero(candidates[1:-1]) + 1
    marks = marks[(group[marks - 1] == WORD) & (group[marks + 1] == WORD)]
    around = tables.flags[codes[marks - 1]] & tables.flags[codes[marks + 1]]
    is_number_mark = (codes[marks] == _COMMA) | (codes[marks] == _POINT)
    group[marks[(around & np.where(is_number_mark, DIGIT, ALPHABETIC)) != 0]] = WORD


def _hash_spans(characters: Hashes, starts: Positions, ends: Positions) -> Hashes:
    """Hash each span: sum of hash(character) * factor^place, by differences of one running sum.

    The factor is odd, so it has an inverse modulo 2^64, which takes the span's own place out.
    """
    powers, inverses = _powers()
    sums = np.empty(characters.size + 1, np.uint64)
    sums[0] = 0
    np.cumsum(characters * powers[: characters.size], out=sums[1:])
    return (sums[ends] - sums[starts]) * inverses[starts]


@functools.cache
def _powers() -> tuple[Hashes, Hashes]:
    tables = []
    for factor in (_CHARACTER_FACTOR, pow(_CHARACTER_FACTOR, -1, 2**64)):
        powers = np.full(CHUNK_CHARACTERS, factor, np.uint64)
        powers[0] = 1
        tables.append(np.cumprod(powers))
    return tables[0], tables[1]
