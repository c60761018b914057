"""MinHash sketches: how similar two documents are, told from a few hundred bytes of each.

The similarity is Jaccard's, of the sets of word n-grams: shared n-grams over n-grams in either.
Under a random permutation of all n-grams, two sets have the same minimum with just this
probability (Broder 1997), so the share of equal minima under many permutations estimates it.

Permutations are ``x -> a*x + b`` modulo 2^32 on the upper half of the mixed n-gram hash, with odd
``a``: one multiplication and one addition of 32-bit lanes, which numpy runs through vector units.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

SKETCH_VERSION = 1
"""Part of the fingerprint of a corpus: raise it when a sketch of the same hashes changes."""

EMPTY = np.uint32(0xFFFFFFFF)
"""In every place of the sketch of a document without n-grams."""

TILE = 1 << 16
"""N-gram hashes worked on at a time: 256 kB, so that the passes over them stay in the cache."""

_MULTIPLIER_1 = np.uint64(0xFF51AFD7ED558CCD)
_MULTIPLIER_2 = np.uint64(0xC4CEB9FE1A85EC53)
_GOLDEN = 0x9E3779B97F4A7C15


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Let every bit of a 64-bit value change every bit of the result (MurmurHash3's finalizer)."""
    values = values ^ (values >> np.uint64(33))
    values *= _MULTIPLIER_1
    values ^= values >> np.uint64(33)
    values *= _MULTIPLIER_2
    values ^= values >> np.uint64(33)
    return values


def flatten(
    documents: Sequence[NDArray[np.uint64]],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Put the hashes of documents in one array, and say where each document ends in it."""
    hashes = np.concatenate([np.zeros(0, np.uint64), *documents])
    return hashes, np.cumsum([document.size for document in documents], dtype=np.int64)


def sketch(
    hashes: NDArray[np.uint64], ends: NDArray[np.int64], permutations: int = 112
) -> NDArray[np.uint32]:
    """Sketch documents.

    Args:
        hashes: N-gram hashes of all documents, one document after the other; repeats are allowed.
        ends: Where each document ends in ``hashes``, shape (N,).
        permutations: Minima in a sketch. The first k of a longer sketch are the sketch of k.

    Returns:
        Shape (N, permutations), in Fortran order: the minima of one band lie together, in memory
        and in a file that ``numpy.save`` writes.
    """
    ends = np.asarray(ends, np.int64)
    starts = np.append(0, ends[:-1]).astype(np.int64)[: ends.size]
    minima = np.full((permutations, ends.size), EMPTY)
    filled = np.flatnonzero(ends > starts)  # reduceat would take a neighbour's hash for the others
    filled_ends = ends[filled]
    first = 0
    while first < filled.size:
        begin = starts[filled[first]]
        # Whole documents only, as a minimum is over all of one; a long one is a tile by itself.
        last = max(int(np.searchsorted(filled_ends, begin + TILE, side="right")), first + 1)
        documents = filled[first:last]
        values = hashes[begin : filled_ends[last - 1]]
        minima[:, documents] = _minima(values, starts[documents] - begin, permutations)
        first = last
    return minima.T


def _minima(
    hashes: NDArray[np.uint64], starts: NDArray[np.int64], permutations: int
) -> NDArray[np.uint32]:
    factors, shifts = _permutations(permutations)
    # Rolled hashes are uneven in places; mixed, every bit is as good as the next.
    values = (mix(hashes) >> np.uint64(32)).astype(np.uint32)
    permuted = np.empty_like(values)
    minima = np.empty((permutations, starts.size), np.uint32)
    # One buffer for all: what costs here is memory traffic, not arithmetic.
    for number in range(permutations):
        np.multiply(values, factors[number], out=permuted)
        np.add(permuted, shifts[number], out=permuted)
        np.minimum.reduceat(permuted, starts, out=minima[number])
    return minima


@cache
def _permutations(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    # A fixed stream and no generator: sketches of all machines and versions can be compared, and
    # more permutations only add to those of fewer.
    numbers = np.arange(1, 2 * count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    draws = (mix(numbers) >> np.uint64(32)).astype(np.uint32)
    return draws[::2] | np.uint32(1), draws[1::2]


def estimate_similarity(
    first: NDArray[np.uint32], second: NDArray[np.uint32]
) -> NDArray[np.float32]:
    """Estimate the Jaccard similarity of each row of ``first`` with the same row of ``second``.

    The standard error is sqrt(s * (1 - s) / permutations): 0.04 at s = 0.7 and 112.
    """
    similarity: NDArray[np.float32] = (first == second).mean(axis=1, dtype=np.float32)
    return similarity


def meeting_probability(similarity: float, bands: int, rows: int) -> float:
    """Chance that two documents have all minima of at least one band in common."""
    return 1.0 - (1.0 - similarity**rows) ** bands
