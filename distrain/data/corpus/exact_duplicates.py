"""Documents whose normalized texts are equal, over all ranges of a corpus."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distrain.data.corpus.clusters import Clusters, Numbers
from distrain.data.corpus.near_duplicates import group_equal, pair_with_first

DOCUMENTS_AT_ONCE = 1 << 26
"""Documents sorted at a time, about 40 bytes each."""


def find_exact_duplicates(
    ranges: Sequence[NDArray[np.uint8]], *, documents_at_once: int = DOCUMENTS_AT_ONCE
) -> Clusters:
    """Cluster the documents with equal digests.

    Args:
        ranges: ``text_digest`` of each document of each range, shape (N_r, 16).
        documents_at_once: More documents than this are sorted in several parts of the key space.
    """
    documents = sum(digests.shape[0] for digests in ranges)
    clusters = Clusters(documents)
    parts = max(1, -(-documents // documents_at_once))
    for part in range(parts):
        clusters.join(*_pairs_of_part(ranges, part, parts))
    return clusters


def _pairs_of_part(
    ranges: Sequence[NDArray[np.uint8]], part: int, parts: int
) -> tuple[Numbers, Numbers]:
    base = 0
    words, numbers = [np.zeros((0, 2), np.uint64)], [np.zeros(0, np.int64)]
    for digests in ranges:
        halves = np.ascontiguousarray(digests).view(np.uint64)
        # A part is a stretch of the leading 32 bits, so equal digests are always in the same one.
        leading = halves[:, 0] >> np.uint64(32)
        chosen = np.flatnonzero(leading * np.uint64(parts) >> np.uint64(32) == part)
        words.append(halves[chosen])
        numbers.append(chosen + base)
        base += digests.shape[0]
    halves = np.concatenate(words)
    # Few share the first half: only these are sorted by the second.
    places, buckets = group_equal(halves[:, 0], np.arange(halves.shape[0]))
    second = halves[places, 1]
    order = np.lexsort((places, second, buckets))
    places, buckets, second = places[order], buckets[order], second[order]
    is_new = np.append(True, (buckets[1:] != buckets[:-1]) | (second[1:] != second[:-1]))
    return pair_with_first(np.concatenate(numbers)[places], np.cumsum(is_new[: places.size]))
