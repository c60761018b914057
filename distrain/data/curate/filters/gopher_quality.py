"""Gopher's quality heuristics (Rae et al. 2021, arXiv 2112.11446, appendix A.1.1)."""

import functools

import numpy as np
from numpy.typing import NDArray

from distrain.config.curation import GopherQualityConfig
from distrain.data.curate.characters import ALPHABETIC
from distrain.data.curate.words import TextView, split_words

BULLETS = ("•", "-")
ELLIPSES = ("...", "…")


def gopher_quality(view: TextView, config: GopherQualityConfig) -> str | None:
    """Return the setting that the text fails, or ``None``."""
    return (
        _fails_words(view, config)
        or _fails_lines(view.text, config)
        or _fails_vocabulary(view, config)
    )


def _fails_words(view: TextView, config: GopherQualityConfig) -> str | None:
    words = view.split
    # Counts and lengths are of words proper; ratios are to all words, punctuation among them.
    total, proper = words.lengths.size, int(words.lexical.sum())
    if proper < config.min_words:
        return "min_words"
    if proper > config.max_words:
        return "max_words"
    mean_length = int(words.lengths[words.lexical].sum()) / max(proper, 1)
    if mean_length < config.min_mean_word_length:
        return "min_mean_word_length"
    if mean_length > config.max_mean_word_length:
        return "max_mean_word_length"
    hash_signs = view.text.count("#")
    ellipses = sum(view.text.count(ellipsis) for ellipsis in ELLIPSES)
    if max(hash_signs, ellipses) / max(total, 1) > config.max_symbol_ratio:
        return "max_symbol_ratio"
    return None


def _fails_lines(text: str, config: GopherQualityConfig) -> str | None:
    lines = text.split("\n")
    # A search in the whole text first: most have none, and a loop over lines costs far more.
    if any(bullet in text for bullet in BULLETS):
        bullets = sum(line.lstrip().startswith(BULLETS) for line in lines)
        if bullets / len(lines) > config.max_bullet_line_fraction:
            return "max_bullet_line_fraction"
    if any(ellipsis in text for ellipsis in ELLIPSES):
        ellipses = sum(line.rstrip().endswith(ELLIPSES) for line in lines)
        if ellipses / len(lines) > config.max_ellipsis_line_fraction:
            return "max_ellipsis_line_fraction"
    return None


def _fails_vocabulary(view: TextView, config: GopherQualityConfig) -> str | None:
    words = view.split
    alphabetic = (words.flags & ALPHABETIC) != 0
    count = int(alphabetic.sum())
    # The flags are of the first character; few words begin with another one and hold a letter.
    for place in np.flatnonzero(words.lexical & ~alphabetic).tolist():
        count += any(map(str.isalpha, view.text[words.starts[place] : words.ends[place]]))
    if count / max(words.lengths.size, 1) < config.min_alphabetic_fraction:
        return "min_alphabetic_fraction"
    found = (view.word_hashes[:, None] == _hashes(config.stop_words)).any(axis=0).sum()
    return "min_stop_words" if found < config.min_stop_words else None


@functools.cache
def _hashes(words: tuple[str, ...]) -> NDArray[np.uint64]:
    return np.array([split_words(word).hashes[0] for word in words], np.uint64)
