"""Near-duplicates of a whole corpus: documents whose sketches agree in a whole band.

Band by band the documents are sorted by what the band holds (locality-sensitive hashing, Leskovec,
Rajaraman and Ullman, *Mining of Massive Datasets*, 3.4); neighbours that are equal meet. Only
numbers of documents are carried from band to band, so sketches may be mapped files.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from distrain.config.dedup import MinHashConfig
from distrain.data.corpus.clusters import Clusters, Numbers
from distrain.data.corpus.minhash import EMPTY, estimate_similarity, mix

DOCUMENTS_AT_ONCE = 1 << 26
"""Documents of one band sorted at a time, about 40 bytes each."""

MAX_HEADS = 64
"""With ``min_similarity``: documents of one bucket that the others of it are compared with. Without
a bound, a template that fills a bucket with unlike documents would take quadratic time."""

Sketches = NDArray[np.uint32]


def find_near_duplicates(
    ranges: Sequence[Sketches],
    candidates: Sequence[NDArray[np.bool_]],
    config: MinHashConfig,
    *,
    threads: int = 1,
    documents_at_once: int = DOCUMENTS_AT_ONCE,
) -> Clusters:
    """Cluster the documents of all ranges that meet in some band.

    The clusters depend on the sketches in their order alone, not on how they were cut into
    ranges, nor on ``threads`` and ``documents_at_once``.

    Args:
        ranges: Sketches of each range, shape (N_r, bands * rows); arrays or mapped files.
        candidates: For each range, which documents take part, shape (N_r,).
        config: Bands, rows, and what similarity is asked for beyond meeting.
        threads: Bands sorted at the same time; each needs memory of its own.
        documents_at_once: More documents than this are sorted in several parts of the key space.
    """
    corpus = _Corpus(ranges, candidates, config, documents_at_once)
    clusters = Clusters(corpus.documents)
    with ThreadPoolExecutor(threads) as pool:
        # Bands are sorted in threads (numpy lets go of the interpreter's lock), but joined here,
        # one after the other: ``Clusters`` is not made for several threads.
        for first, second in pool.map(corpus.pairs_of_band, range(config.bands)):
            clusters.join(first, second)
    return clusters


class _Corpus:
    def __init__(
        self,
        ranges: Sequence[Sketches],
        candidates: Sequence[NDArray[np.bool_]],
        config: MinHashConfig,
        documents_at_once: int,
    ) -> None:
        self._ranges = ranges
        self._candidates = candidates
        self._config = config
        self._bases = np.cumsum([0, *(sketches.shape[0] for sketches in ranges)])
        self.documents = int(self._bases[-1])
        self._parts = max(1, -(-self.documents // documents_at_once))

    def pairs_of_band(self, band: int) -> tuple[Numbers, Numbers]:
        """Pair the documents that meet in ``band``, each with a smaller one of its bucket."""
        pairs = [self._pairs_of_part(band, part) for part in range(self._parts)]
        return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])

    def _pairs_of_part(self, band: int, part: int) -> tuple[Numbers, Numbers]:
        found = list(self._keys(band, part))
        keys = np.concatenate([keys for keys, _ in found] or [np.zeros(0, np.uint64)])
        numbers = np.concatenate([numbers for _, numbers in found] or [np.zeros(0, np.int64)])
        # The pieces are as large as what was made of them, and sorting needs that memory.
        del found
        numbers, buckets = group_equal(keys, numbers)
        if self._config.min_similarity is None:
            return pair_with_first(numbers, buckets)
        return self._verified(numbers, buckets, self._config.min_similarity)

    def _keys(self, band: int, part: int) -> Iterator[tuple[NDArray[np.uint64], Numbers]]:
        rows = self._config.rows
        for base, sketches, candidates in zip(
            self._bases[:-1], self._ranges, self._candidates, strict=True
        ):
            # One stretch of the mapped file, as sketches are in Fortran order.
            columns = np.asarray(sketches[:, band * rows : (band + 1) * rows])
            keys = band_keys(columns)
            # Documents without n-grams have equal sketches, but say nothing about each other.
            chosen = candidates & (columns != EMPTY).any(axis=1)
            if self._parts > 1:
                # Parts are stretches of the key space: whatever meets is in the same one.
                chosen &= (keys >> np.uint64(32)) * np.uint64(self._parts) >> np.uint64(32) == part
            yield keys[chosen], np.flatnonzero(chosen) + base

    def _verified(
        self, numbers: Numbers, buckets: Numbers, min_similarity: float
    ) -> tuple[Numbers, Numbers]:
        """Compare with the first of the bucket; those unlike it are a bucket of their own."""
        kept: list[tuple[Numbers, Numbers]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        for _ in range(MAX_HEADS):
            first, second = pair_with_first(numbers, buckets)
            if not first.size:
                break
            # Meeting in a band is a hint only; the estimate is over the whole sketches.
            similar = self._similarity(first, second) >= min_similarity
            kept.append((first[similar], second[similar]))
            is_member = np.append(False, buckets[1:] == buckets[:-1])
            numbers, buckets = numbers[is_member][~similar], buckets[is_member][~similar]
        return np.concatenate([a for a, _ in kept]), np.concatenate([b for _, b in kept])

    def _similarity(self, first: Numbers, second: Numbers) -> NDArray[np.float32]:
        step = 1 << 16  # pairs, of 1 kB each
        parts = [
            estimate_similarity(
                self._rows(first[at : at + step]), self._rows(second[at : at + step])
            )
            for at in range(0, first.size, step)
        ]
        return np.concatenate(parts)

    def _rows(self, numbers: Numbers) -> Sketches:
        rows = np.empty((numbers.size, self._config.bands * self._config.rows), np.uint32)
        places = np.searchsorted(self._bases, numbers, side="right") - 1
        for place in np.unique(places):
            here = places == place
            rows[here] = self._ranges[place][numbers[here] - self._bases[place]]
        return rows


def band_keys(columns: Sketches) -> NDArray[np.uint64]:
    """Hash the minima of one band, shape (N, rows), to 64 bits a document."""
    keys = np.zeros(columns.shape[0], np.uint64)
    for row in range(columns.shape[1]):
        keys = mix(keys ^ columns[:, row] + np.uint64(row << 32))
    return keys


def group_equal(keys: NDArray[np.uint64], numbers: Numbers) -> tuple[Numbers, Numbers]:
    """Find the documents whose key is not theirs alone.

    Returns:
        Their numbers, and for each a number of its bucket: sorted by bucket, then by number.
    """
    # Need not be stable: of the few that have company, the order is made sure below.
    order = np.argsort(keys)
    keys = keys[order]
    is_new = np.append(True, keys[1:] != keys[:-1])[: keys.size]
    is_alone = is_new & np.append(is_new[1:], True)[: keys.size]
    buckets = np.cumsum(is_new)[~is_alone]
    numbers = numbers[order][~is_alone]
    order = np.lexsort((numbers, buckets))
    return numbers[order], buckets[order]


def pair_with_first(numbers: Numbers, buckets: Numbers) -> tuple[Numbers, Numbers]:
    """Pair every document, but the first of each bucket, with that first one."""
    is_first = np.append(True, buckets[1:] != buckets[:-1])[: buckets.size]
    firsts = numbers[np.flatnonzero(is_first)][np.cumsum(is_first) - 1]
    return firsts[~is_first], numbers[~is_first]
