"""Deduplicate a corpus: from digests and sketches of each range to the documents that go."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distrain.config.dedup import DedupConfig
from distrain.data.corpus.clusters import Reason, choose
from distrain.data.corpus.exact_duplicates import find_exact_duplicates
from distrain.data.corpus.near_duplicates import DOCUMENTS_AT_ONCE, find_near_duplicates


@dataclass(frozen=True)
class RangeFeatures:
    """Digest, split and sketch of the N documents of one range; the arrays may be mapped files.

    Args:
        digests: ``text_digest`` of each, shape (N, 16), uint8.
        splits: Place of its split in ``SPLITS``, shape (N,), uint8.
        sketches: ``minhash.sketch``, shape (N, bands * rows), uint32; ``None`` without MinHash.
    """

    digests: NDArray[np.uint8]
    splits: NDArray[np.uint8]
    sketches: NDArray[np.uint32] | None = None


def deduplicate(
    ranges: Sequence[RangeFeatures],
    config: DedupConfig,
    *,
    threads: int = 1,
    documents_at_once: int = DOCUMENTS_AT_ONCE,
) -> list[NDArray[np.uint8]]:
    """Decide over all ranges together, in the order of the source.

    Exact copies go first; near-duplicates are sought among what is left. Which of a cluster stays
    is ``clusters.choose``: held-out documents win.

    Returns:
        A ``Reason`` for each document, one array a range; ``Reason.KEPT`` is 0.

    Raises:
        ValueError: ``config.minhash`` is set and a range has no sketches of that size.
    """
    if not ranges:
        return []
    splits = np.concatenate([found.splits for found in ranges])
    reasons = np.zeros(splits.size, np.uint8)
    # Numbers run over all ranges: a copy counts wherever it lies, and ranges are told apart again
    # only at the end.
    cuts = np.cumsum([found.splits.size for found in ranges])[:-1]
    if config.exact:
        copies = find_exact_duplicates(
            [found.digests for found in ranges], documents_at_once=documents_at_once
        )
        numbers, why = choose(copies, splits, Reason.DUPLICATE)
        reasons[numbers] = why
    if config.minhash is not None:
        # Exact copies take no part: the one that stays stands for all, and a page copied a million
        # times would fill its buckets. So no reason from above is overwritten below.
        near = find_near_duplicates(
            _sketches(ranges, config.minhash.bands * config.minhash.rows),
            np.split(reasons == Reason.KEPT, cuts),
            config.minhash,
            threads=threads,
            documents_at_once=documents_at_once,
        )
        numbers, why = choose(near, splits, Reason.NEAR_DUPLICATE)
        reasons[numbers] = why
    return np.split(reasons, cuts)


def _sketches(ranges: Sequence[RangeFeatures], width: int) -> list[NDArray[np.uint32]]:
    sketches = []
    for number, found in enumerate(ranges):
        if found.sketches is None or found.sketches.shape != (found.splits.size, width):
            shape = None if found.sketches is None else found.sketches.shape
            raise ValueError(
                f"sketches of range {number} have shape {shape}, not {(found.splits.size, width)}"
            )
        sketches.append(found.sketches)
    return sketches
