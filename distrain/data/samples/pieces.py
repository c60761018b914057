"""Layer 3: which stretches of which documents samples hold, and the other way round. Pure."""

from collections.abc import Iterator

import numpy as np

from distrain.data.samples.order import Ints
from distrain.data.samples.packing import PackedIndex, Pieces
from distrain.data.shards.reader import ShardedTokens


def cut_at_documents(tokens: ShardedTokens, length: int, indices: Ints) -> Pieces:
    """Cut samples of ``length`` laid out tokens where documents end."""
    parts = [
        (np.full(len(starts), row), np.full(len(starts), shard), starts, lengths)
        for row, index in enumerate(indices.tolist())
        for shard, starts, lengths in _stretches(tokens, index * length, length)
    ]
    empty = np.empty(0, np.int64)
    columns = zip(*parts, strict=True) if parts else (() for _ in Pieces._fields)
    return Pieces(*(np.concatenate([empty, *column]) for column in columns))


def samples_of(
    tokens: ShardedTokens, length: int, count: int, shard: int, begin: int, end: int
) -> tuple[Ints, Ints, Ints]:
    """Find which of ``count`` laid out samples hold the document at [begin, end) of a shard.

    Returns:
        Indices of the samples; start within the shard and length of what each holds of it.
    """
    base = tokens.first_token[shard]
    # The last token has no target in its document, and tokens behind the last whole sample are in
    # no sample.
    last = min((base + end - 2) // length, count - 1) if end - begin > 1 else -1
    indices = np.arange((base + begin) // length, last + 1)
    starts = np.maximum(indices * length - base, begin)
    stops = np.minimum((indices + 1) * length - base, end - 1)
    return indices, starts, stops - starts


def packed_samples_of(
    index: PackedIndex, shard: int, begin: int, end: int
) -> tuple[Ints, Ints, Ints]:
    """Find which bins hold the document at [begin, end) of a shard; returns as ``samples_of``."""
    plan = index.plans[shard]
    # Pieces of a document may be in any bins of its shard, so all are looked at: one pass in numpy.
    (chosen,) = np.nonzero((plan.starts >= begin) & (plan.starts < end))
    bins = np.searchsorted(plan.first_piece, chosen, side="right") - 1
    indices = bins + index.first_sample[shard]
    return indices, plan.starts[chosen], plan.lengths[chosen].astype(np.int64)


def _stretches(tokens: ShardedTokens, start: int, length: int) -> Iterator[tuple[int, Ints, Ints]]:
    """Cut a stretch of the stream: shard, then start and length of each piece in it."""
    for shard, first, stop in tokens.pieces(start, start + length):
        ends = tokens.shards[shard].ends
        keys = np.array([first, stop - 1], ends.dtype)
        low, high = ends.searchsorted(keys, side="right").tolist()
        stops = ends[low : high + 1].astype(np.int64)
        begins = np.concatenate([[int(ends[low - 1]) if low else 0], stops[:-1]])
        starts = np.maximum(begins, first)
        lengths = np.minimum(stops - 1, stop) - starts
        yield shard, starts[lengths > 0], lengths[lengths > 0]
