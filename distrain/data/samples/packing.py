"""Layer 3: documents into bins of T positions, planned ahead, so that packing has no runtime state.

Best-fit packing (Ding et al. 2024, arXiv 2404.10830, section 3): a document is cut only where it
is longer than T, and what is left of it competes for space. A packed sample is a bin, found by its
number alone. This file plans and looks up; ``pack_files.py`` keeps plans on disk.

An input is a token with a target in its own document, so a document of n tokens has n - 1 inputs.
A piece of ``length`` inputs at ``start`` has its targets at [start + 1, start + 1 + length).

Which documents share a bin is part of what a sample number means, so any change of the plan needs
a new ``PACK_VERSION``.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PACK_VERSION = 1

WINDOW_DOCUMENTS = 1 << 16
"""Of web text, planned in 8 MB, this leaves 0.01 % of positions empty at T = 2048 and 8192."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PackPlan:
    """The bins of one shard, in the order of their first tokens.

    Args:
        length: T, the positions of a bin.
        window_documents: Documents that were packed together.
        first_piece: Bin i holds pieces [first_piece[i], first_piece[i + 1]); int64,
            shape (bins + 1,).
        starts: First token of each piece within the shard, rising in a bin; int64.
        lengths: Inputs of each piece, 1 to T; uint32.
    """

    length: int
    window_documents: int
    first_piece: Ints
    starts: Ints
    lengths: NDArray[np.uint32]

    @property
    def num_bins(self) -> int:
        """Samples that the shard makes."""
        return len(self.first_piece) - 1

    def padding(self) -> float:
        """Compute the share of positions, 0 to 1, that hold no input."""
        positions = self.num_bins * self.length
        return 1 - int(self.lengths.sum(dtype=np.int64)) / positions if positions else 0.0


class Pieces(NamedTuple):
    """Pieces of several samples, sample after sample; arrays of one shape (pieces,), int64."""

    row: Ints
    """The sample that a piece belongs to, by its place among those asked for; never falls."""
    shard: Ints
    start: Ints
    """First token within the shard."""
    length: Ints
    """Inputs; the targets lie one token further."""


class PackedIndex:
    """The bins of all shards in a row: sample i is bin i.

    Args:
        plans: One a shard, in the order of the stream; arrays may be mapped files.
    """

    def __init__(self, plans: Sequence[PackPlan]) -> None:
        self.plans = plans
        self.first_sample: Ints = np.cumsum([0, *(plan.num_bins for plan in plans)], dtype=np.int64)

    @property
    def num_samples(self) -> int:
        """Bins of all shards."""
        return int(self.first_sample[-1])

    def pieces_of(self, indices: Ints) -> Pieces:
        """Look up the pieces of the samples ``indices``, in that order; none is without a piece.

        Raises:
            IndexError: There is no such sample.
        """
        outside = indices[(indices < 0) | (indices >= self.num_samples)]
        if outside.size:
            raise IndexError(f"sample {outside[0]} of {self.num_samples}")
        shard = np.searchsorted(self.first_sample, indices, side="right") - 1
        bins = indices - self.first_sample[shard]
        starts, lengths = [np.empty(0, np.int64)], [np.empty(0, np.uint32)]
        counts = np.empty_like(bins)
        # Sample by sample, under a microsecond each. By shard it takes several times as long where
        # a few samples come from as many shards, which is what a shuffled batch is.
        for row, (number, of_bin) in enumerate(zip(shard.tolist(), bins.tolist(), strict=True)):
            plan = self.plans[number]
            first, stop = plan.first_piece.item(of_bin), plan.first_piece.item(of_bin + 1)
            starts.append(plan.starts[first:stop])
            lengths.append(plan.lengths[first:stop])
            counts[row] = stop - first
        rows = np.repeat(np.arange(len(bins)), counts)
        return Pieces(
            rows, shard[rows], np.concatenate(starts), np.concatenate(lengths).astype(np.int64)
        )


def plan_best_fit(
    ends: NDArray[np.integer], length: int, window_documents: int = WINDOW_DOCUMENTS
) -> PackPlan:
    """Plan the bins of a shard. Pure.

    Windows of documents are packed by themselves: memory is bounded by the window (and by the
    plan), and a bin reads from a stretch of the shard. So the plan depends on where windows and
    shards begin: the same documents in other shards make other bins.

    Args:
        ends: Where each document ends within the shard, never falling.
        length: T, inputs of a bin.
        window_documents: Documents packed together.

    Raises:
        ValueError: A bin or a window of nothing is asked for.
    """
    if length < 1 or window_documents < 1:
        raise ValueError(f"bins of {length} positions from windows of {window_documents} documents")
    windows = []
    begin = 0
    for first in range(0, len(ends), window_documents):
        # Of ends that may be a mapped file, one window at a time is copied.
        stops = ends[first : first + window_documents].astype(np.int64)
        windows.append(_plan_window(begin, stops, length))
        begin = int(stops[-1])
    # A shard may have no document at all, and then no window to take the three columns from.
    counts, starts, lengths = (
        np.concatenate(parts) if parts else np.empty(0, np.int64)
        for parts in (list(zip(*windows, strict=True)) or [(), (), ()])
    )
    return PackPlan(
        length,
        window_documents,
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)]),
        starts,
        lengths.astype(np.uint32),
    )


def _plan_window(begin: int, stops: Ints, length: int) -> tuple[Ints, Ints, Ints]:
    """Return the pieces of each bin, and start and length of each piece, bin after bin."""
    first = np.concatenate([np.array([begin], np.int64), stops[:-1]])
    # At least 0: an empty document has no input, and not one less.
    inputs = np.maximum(stops - first - 1, 0)
    pieces = -(-inputs // length)
    document = np.repeat(np.arange(len(stops)), pieces)
    # The number of each piece in its document, times T: documents longer than T are cut every T
    # inputs, and the shorter rest comes last.
    within = (np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * length
    starts = first[document] + within
    lengths = np.minimum(inputs[document] - within, length)
    bins = _bin_of_pieces(lengths, length)
    counts, order = _by_first_appearance(bins)
    return counts, starts[order], lengths[order]


def _bin_of_pieces(lengths: Ints, length: int) -> Ints:
    """Put pieces into bins of ``length``, best fit decreasing; bins have no particular order."""
    spare = length - lengths
    is_part = spare > 0
    # Sorting by the space beside a piece puts the longest first, and documents in their order
    # where that is equal. A radix sort for up to 16 bits.
    order = np.argsort(spare[is_part].astype(np.min_scalar_type(length)), kind="stable")
    sizes, counts = np.unique(lengths[is_part], return_counts=True)
    packed, num_bins = _best_fit_decreasing(sizes[::-1].tolist(), counts[::-1].tolist(), length)
    parts = np.empty(len(order), np.int64)
    parts[order] = packed
    bins = np.empty(len(lengths), np.int64)
    bins[is_part] = parts
    # Pieces of T fill a bin each: they compete for nothing.
    bins[~is_part] = num_bins + np.arange(len(lengths) - len(order))
    return bins


def _best_fit_decreasing(sizes: list[int], counts: list[int], length: int) -> tuple[list[int], int]:
    """Place ``counts[i]`` items of ``sizes[i]``, falling: the bin of each item, and all bins.

    Each item goes where it leaves the least space. What it leaves is the tightest place for the
    next item of its size, if that fits at all; so a bin takes all it can of a size before another
    bin is looked at, and one turn of the loop serves all bins of equal space.
    """
    bins_with: dict[int, list[int]] = {}
    spaces: list[int] = []  # the keys of bins_with, rising
    packed: list[int] = []
    num_bins = 0

    def put_back(space: int, bins: list[int]) -> None:
        if space in bins_with:
            bins_with[space] += bins
        elif space:
            bins_with[space] = bins
            insort(spaces, space)

    for size, count in zip(sizes, counts, strict=True):
        left = count
        while left:
            at = bisect_left(spaces, size)
            if at == len(spaces):
                # As many as these items need if each takes all it can. Their space is the largest
                # of all, so it is found at ``at``.
                opened = -(-left // (length // size))
                put_back(length, list(range(num_bins, num_bins + opened)))
                num_bins += opened
            space = spaces[at]
            bins = bins_with[space]
            # Bins that take as many as fit, or one bin that takes the last few.
            fits = min(space // size, left)
            taken = bins[-(left // fits) :]
            packed += taken * fits
            left -= len(taken) * fits
            if len(taken) == len(bins):
                del bins_with[space], spaces[at]
            else:
                del bins[-len(taken) :]
            put_back(space - fits * size, taken)
    return packed, num_bins


def _by_first_appearance(bins: Ints) -> tuple[Ints, Ints]:
    """Renumber bins in the order of their first pieces: pieces of each, and an order of pieces."""
    num_bins = int(bins.max()) + 1 if len(bins) else 0
    first = np.empty(num_bins, np.int64)
    # Of values assigned to one place the last one stays.
    first[bins[::-1]] = np.arange(len(bins))[::-1]
    is_first = np.zeros(len(bins), np.bool_)
    is_first[first] = True
    rank = (np.cumsum(is_first) - 1)[first][bins]
    order = np.argsort(rank.astype(np.min_scalar_type(num_bins)), kind="stable")
    return np.bincount(rank, minlength=num_bins), order
