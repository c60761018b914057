"""Gopher's repetition heuristics (Rae et al. 2021, arXiv 2112.11446, table A1).

An n-gram can only repeat where the (n-1)-gram at its place and the one after it repeat as well, so
each length looks only at places that the length before left over: from 2-grams, all of them, to
10-grams, in most texts none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distrain.config.curation import GopherRepetitionConfig
from distrain.data.curate.words import WORD_FACTOR, Hashes, Positions, TextView

TOP_LENGTHS = (2, 3, 4)
DUPLICATE_LENGTHS = (5, 6, 7, 8, 9, 10)
SETTINGS = {
    **{n: f"max_top_{n}gram_fraction" for n in TOP_LENGTHS},
    **{n: f"max_duplicate_{n}gram_fraction" for n in DUPLICATE_LENGTHS},
}
LONGEST = DUPLICATE_LENGTHS[-1]


def gopher_repetition(view: TextView, config: GopherRepetitionConfig) -> str | None:
    """Return the setting that the text fails, or ``None``."""
    return _fails_parts(view, config) or _fails_ngrams(view, config)


def duplicate_characters(parts: list[str]) -> int:
    """Count characters of parts that were there before."""
    return sum(map(len, parts)) - sum(map(len, set(parts)))


def _fails_parts(view: TextView, config: GopherRepetitionConfig) -> str | None:
    limits = {
        "paragraph": (
            view.paragraphs,
            config.max_duplicate_paragraph_fraction,
            config.max_duplicate_paragraph_character_fraction,
        ),
        "line": (
            view.lines,
            config.max_duplicate_line_fraction,
            config.max_duplicate_line_character_fraction,
        ),
    }
    for kind, (parts, max_fraction, max_character_fraction) in limits.items():
        duplicates = len(parts) - len(set(parts))
        if duplicates / max(len(parts), 1) > max_fraction:
            return f"max_duplicate_{kind}_fraction"
        # Without repeated parts there are no repeated characters: most texts end here.
        if duplicates and duplicate_characters(parts) / len(view.text) > max_character_fraction:
            return f"max_duplicate_{kind}_character_fraction"
    return None


@dataclass(frozen=True)
class Repeats:
    """The n-grams of one length that are there more than once.

    Args:
        places: First word of each occurrence, ascending.
        hashes: Of the n-gram at each place.
    """

    n: int
    places: Positions
    hashes: Hashes


def _fails_ngrams(view: TextView, config: GopherRepetitionConfig) -> str | None:
    # Characters before each word: those of any run of words are then one subtraction.
    characters = np.concatenate([[0], np.cumsum(view.split.lengths)])
    total = max(len(view.text), 1)
    for repeats in _repeats(view.word_hashes, LONGEST):
        name = SETTINGS[repeats.n]
        limit = getattr(config, name)
        if repeats.n in TOP_LENGTHS:
            fails = _top(repeats, characters) / total > limit
        else:
            fails = (
                # The upper bound first: it is numpy, ``_duplicate`` is a loop that few texts need.
                _covered(repeats, characters) / total > limit
                and _duplicate(repeats, characters) / total > limit
            )
        if fails:
            return name
    return None


def _repeats(words: Hashes, longest: int) -> Iterator[Repeats]:
    """Find the repeated n-grams for n = 2, 3, ... ``longest``."""
    places = np.arange(max(words.size - 1, 0))
    hashes = words[:-1]
    for n in range(2, longest + 1):
        # One word more of the polynomial of ``words.roll``: no n-gram is hashed from its beginning.
        hashes = hashes * WORD_FACTOR + words[places + n - 1]
        repeated = _is_repeated(hashes)
        places, hashes = places[repeated], hashes[repeated]
        yield Repeats(n, places, hashes)
        # The longer n-gram repeats only where the next place repeats as well.
        followed = np.flatnonzero(places[1:] == places[:-1] + 1)
        places, hashes = places[followed], hashes[followed]


def _is_repeated(hashes: Hashes) -> NDArray[np.bool_]:
    order = np.argsort(hashes)
    ordered = hashes[order]
    same = np.zeros(hashes.size + 1, np.bool_)
    np.equal(ordered[1:], ordered[:-1], out=same[1:-1])
    repeated = np.empty(hashes.size, np.bool_)
    repeated[order] = same[1:] | same[:-1]
    return repeated


def _top(repeats: Repeats, characters: Positions) -> int:
    """Characters in all occurrences of the most frequent n-gram, with a space between words.

    Of equally frequent ones the first counts. An n-gram that does not repeat is no repetition.
    """
    if not repeats.places.size:
        return 0
    _, firsts, counts = np.unique(repeats.hashes, return_index=True, return_counts=True)
    most = int(counts.max())
    place = int(repeats.places[firsts[counts == most].min()])
    length = int(characters[place + repeats.n] - characters[place]) + repeats.n - 1
    return length * most


def _duplicate(repeats: Repeats, characters: Positions) -> int:
    """Characters in n-grams that were there before; none is counted twice."""
    lengths = (characters[repeats.places + repeats.n] - characters[repeats.places]).tolist()
    seen: set[int] = set()
    total = after = 0
    for place, key, length in zip(
        repeats.places.tolist(), repeats.hashes.tolist(), lengths, strict=True
    ):
        # Inside the repeat that was counted last: its characters must not count twice.
        if place < after:
            continue
        if key in seen:
            total += length
            after = place + repeats.n
        seen.add(key)
    return total


def _covered(repeats: Repeats, characters: Positions) -> int:
    """Characters in any repeated n-gram: an upper bound of ``_duplicate``, without its loop."""
    nexts = np.append(repeats.places[1:], characters.size)
    ends = np.minimum(repeats.places + repeats.n, nexts)
    return int((characters[ends] - characters[repeats.places]).sum())
