"""Clusters of documents that say the same, and which one of each stays.

Documents have numbers 0..N-1 in the order of the source; a cluster is known by its smallest one.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


class Reason(IntEnum):
    """Why a document goes, as one byte beside it."""

    KEPT = 0
    DUPLICATE = 1
    """Equal to an earlier one of the same split."""
    NEAR_DUPLICATE = 2
    """In a cluster with an earlier one of the same split."""
    HELD_OUT_COPY = 3
    """In a cluster with a document of a split that is held further out."""
    CONTAMINATED = 4
    """Shares n-grams with held-out texts."""


class Clusters:
    """Disjoint sets of the numbers below ``count``; 8 bytes a document."""

    def __init__(self, count: int) -> None:
        self._parent: Numbers = np.arange(count, dtype=np.int64)

    def join(self, first: Numbers, second: Numbers) -> None:
        """Put ``first[i]`` and ``second[i]`` in one cluster, for every i, in any order."""
        parent = self._parent
        while first.size:
            first, second = self._roots(first), self._roots(second)
            low, high = np.minimum(first, second), np.maximum(first, second)
            apart = low != high
            low, high = low[apart], high[apart]
            # Always the larger root below the smaller: no cycle can arise, whatever the order of
            # the pairs, and the root of a cluster is its smallest number.
            np.minimum.at(parent, high, low)
            # A root hangs below one other only: what else it was to be joined with comes again.
            again = parent[high] != low
            first, second = low[again], parent[high[again]]

    def members(self) -> tuple[Numbers, Numbers]:
        """List the documents that have company.

        Returns:
            Their numbers, ascending, and the smallest number in the cluster of each.
        """
        moved = np.flatnonzero(self._parent != np.arange(self._parent.size))
        heads = self._roots(moved)
        numbers = np.concatenate([moved, np.unique(heads)])
        order = np.argsort(numbers)
        return numbers[order], self._roots(numbers[order])

    def _roots(self, numbers: Numbers) -> Numbers:
        roots = self._parent[numbers]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[numbers] = roots  # the next way up is short
        return roots


def choose(
    clusters: Clusters, splits: NDArray[np.uint8], reason: Reason
) -> tuple[Numbers, NDArray[np.uint8]]:
    """Keep one document of every cluster: held-out ones win, then the smallest number.

    A document of the train split never outlives a copy in the validation or test split, nor one
    of the validation split a copy in the test split: dropping the held-out copy instead would
    train on what is measured.

    Args:
        clusters: Of all documents.
        splits: For every document, its place in ``SPLITS``: the higher, the further held out.
        reason: What is said of documents whose winner is in their own split.

    Returns:
        The numbers of the documents that go, ascending, and the reason of each.
    """
    numbers, heads = clusters.members()
    if not numbers.size:
        return numbers, np.zeros(0, np.uint8)
    own = splits[numbers]
    # The last key counts first: by cluster, in it the furthest held out, then the smallest number.
    # Signed, because 0 - 2 is 254 in uint8.
    order = np.lexsort((numbers, -own.astype(np.int16), heads))
    numbers, heads, own = numbers[order], heads[order], own[order]
    is_winner = np.append(True, heads[1:] != heads[:-1])
    # The split of each cluster's winner, repeated for all of its members.
    best = own[np.flatnonzero(is_winner)[np.cumsum(is_winner) - 1]]
    reasons = np.where(own < best, Reason.HELD_OUT_COPY, reason).astype(np.uint8)
    numbers, reasons = numbers[~is_winner], reasons[~is_winner]
    order = np.argsort(numbers)
    return numbers[order], reasons[order]
