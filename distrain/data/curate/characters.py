"""Group, flags and hash of each Unicode code point for the word split, as tables for numpy."""

import functools
import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPACE = 0
WORD = 1
"""Groups of the word split; every other character is a group of its own, its code point."""

ALPHABETIC = 1
DIGIT = 2
LEXICAL = 4
"""Flags. Lexical: a letter, digit, mark, underscore, ideograph or kana, thus no punctuation."""

ASCII_LIMIT = 0x80
NARROW_LIMIT = 0x3000
"""Alphabets; ideographs and most rarities lie above, and cost a tenth of a second to tabulate."""
UNICODE_LIMIT = 0x110000
_LISTED_LIMIT = 0x20000

_IDEOGRAPH_NAMES = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "YI SYLLABLE", "TANGUT", "NUSHU")
_INVISIBLE_SPACES = "\u200b\u2060\ufeff"


Codes = NDArray[np.uint8] | NDArray[np.uint32]


@dataclass(frozen=True)
class CharacterTables:
    """Four arrays over all code points below a limit.

    Args:
        group: Neighbours of one group are one word; ``SPACE`` and ``WORD`` or the code point.
        flags: Sum of ``ALPHABETIC``, ``DIGIT`` and ``LEXICAL``, uint8.
        hashes: 64 random bits for each code point.
        lower_hashes: The same of its lower-case form (of the first character of it).
    """

    group: Codes
    flags: NDArray[np.uint8]
    hashes: NDArray[np.uint64]
    lower_hashes: NDArray[np.uint64]


@functools.cache
def character_tables(limit: int) -> CharacterTables:
    """Tabulate the code points below ``limit``, which is one of the three above."""
    listed = min(limit, _LISTED_LIMIT)
    group: Codes = np.arange(limit, dtype=np.uint32)
    flags = np.zeros(limit, np.uint8)
    lower = np.arange(limit)
    for code in range(listed):
        character = chr(code)
        group[code], flags[code] = _classify(character)
        lower[code] = ord(character.lower()[0])
    if limit > listed:
        # Planes 2 and 3 hold ideographs, plane 14 variation selectors, the rest nothing.
        flags[0x20000:0x40000] = ALPHABETIC | LEXICAL
        group[0xE0100:0xE01F0] = WORD
        flags[0xE0100:0xE01F0] = LEXICAL
    if limit == ASCII_LIMIT:
        group = group.astype(np.uint8)
    # A lower-case form may lie beyond the limit, as that of Cherokee's capitals does.
    hashes = _hashes_of_codes(max(limit, int(lower.max()) + 1))
    return CharacterTables(group, flags, hashes[:limit], hashes[lower])


def _classify(character: str) -> tuple[int, int]:
    category = unicodedata.category(character)
    if character.isspace() or category == "Cc" or character in _INVISIBLE_SPACES:
        return SPACE, 0
    alphabetic = ALPHABETIC if character.isalpha() else 0
    if category == "Lo" and unicodedata.name(character, "").startswith(_IDEOGRAPH_NAMES):
        return ord(character), LEXICAL | alphabetic
    digit = DIGIT if character.isdigit() else 0
    # Joiners within words are formats (Cf); vowel signs of Indic scripts are marks (M).
    if character.isalnum() or category[0] == "M" or category == "Cf" or character == "_":
        return WORD, LEXICAL | alphabetic | digit
    return ord(character), 0


def _hashes_of_codes(count: int) -> NDArray[np.uint64]:
    """Draw 64 bits for each of the first code points (SplitMix64, Steele et al. 2014)."""
    values = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
