"""Figures of each document's quality, as columns beside it, and what they are over a source.

They are what published filters look at, so a column tells what a threshold would do before it is
set.
"""

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distrain.config.curation import GopherQualityConfig
from distrain.data.curate.characters import ALPHABETIC
from distrain.data.curate.words import TextView, split_words

QUALITY_COLUMNS = (
    "words",  # without punctuation, as in the next line
    "mean_word_length",  # characters
    "alphabetic_fraction",  # words that begin with a letter, of all with punctuation
    "symbol_ratio",  # hash signs, or ellipses if they are more, to words with punctuation
    "stop_words",  # different ones of Gopher's eight
    "unique_word_fraction",  # different lower-case words, of all without punctuation
    "duplicate_line_fraction",  # lines that were there before, of those that are not blank
)
"""Names, in order. Each is a float32 >= 0, and 0 where there is nothing to divide by."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

_SHIFT = 12
"""Bits of a float32 that the histogram forgets: it keeps 11 of the fraction, so integers below
4096 are exact and other values are low by less than 0.05 %."""
_BINS = 1 << (31 - _SHIFT)


def quality_figures(view: TextView) -> dict[str, float]:
    """Compute every column for one text, from the word split that its filters share."""
    words, text = view.split, view.text
    proper = words.lexical
    total, count = proper.size, int(proper.sum())
    ellipses = text.count("...") + text.count("\u2026")
    # Hashes stand for the words: no string is made for any of these figures.
    lower = words.lower_hashes[proper]
    lines = view.lines
    figures = (
        count,
        int(words.lengths[proper].sum()) / max(count, 1),
        int(np.count_nonzero(words.flags & ALPHABETIC)) / max(total, 1),
        max(text.count("#"), ellipses) / max(total, 1),
        int((view.word_hashes[:, None] == _stop_words()).any(axis=0).sum()),
        np.unique(lower).size / max(count, 1),
        (len(lines) - len(set(lines))) / max(len(lines), 1),
    )
    return dict(zip(QUALITY_COLUMNS, map(float, figures), strict=True))


@functools.cache
def _stop_words() -> NDArray[np.uint64]:
    words = GopherQualityConfig().stop_words
    return np.array([split_words(word).hashes[0] for word in words], np.uint64)


@dataclass(frozen=True)
class Summary:
    """One column over the documents of a source.

    Args:
        quantiles: Share of documents -> the largest value among the lowest of that share.
    """

    documents: int
    mean: float
    quantiles: dict[float, float]

    def to_record(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self) | {"quantiles": {f"{q:g}": v for q, v in self.quantiles.items()}}


def summarize(values: Iterable[NDArray[np.float32]]) -> Summary:
    """Summarize a column that comes in pieces, in 4 MB of memory however many there are.

    Positive floats are ordered as their bits are, so the upper bits are the bins of a histogram.

    Raises:
        ValueError: A value is negative or not a number.
    """
    bins = np.zeros(_BINS, np.int64)
    total = 0.0
    for piece in values:
        if not (piece >= 0).all():
            raise ValueError(f"a quality column holds {piece[~(piece >= 0)][0]}, no figure >= 0")
        total += float(piece.sum(dtype=np.float64))
        places = np.ascontiguousarray(piece, np.float32).view(np.uint32) & 0x7FFFFFFF  # -0.0 is 0
        bins += np.bincount(places >> _SHIFT, minlength=_BINS)
    documents = int(bins.sum())
    if not documents:
        return Summary(0, 0.0, {})
    # The value of a document, never one between two: half a word or half a line is none.
    ranks = np.ceil(np.array(QUANTILES) * documents).astype(np.int64)
    places = np.searchsorted(np.cumsum(bins), ranks).astype(np.uint32) << _SHIFT
    found = places.view(np.float32).tolist()
    return Summary(documents, total / documents, dict(zip(QUANTILES, found, strict=True)))
