"""Layer 3 over remote shards: the order of reading is known, so blocks are downloaded before it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from distrain.data.remote.cache.block_cache import BlockCache
from distrain.data.remote.cache.blocks import Block
from distrain.data.remote.shards import blocks_of
from distrain.data.samples.datasets import PackedDataset, PretrainDataset
from distrain.data.samples.feed import Feed, OrderedStream
from distrain.data.samples.order import Ints

BUDGET_BYTES = 1 << 30
"""Ahead of the reader, in each process: two windows of blocks. More would be for nothing where a
run ends, or is killed, before it comes to them."""


@dataclass(frozen=True)
class RemoteStream(OrderedStream):
    """Samples in a keyed order whose tokens come through a cache.

    Args:
        cache: Of the node; that of the dataset's shards.
    """

    dataset: PretrainDataset | PackedDataset
    cache: BlockCache

    def blocks(self, n: Ints) -> Iterator[Block]:
        """Yield what the samples ``n`` are made of, in the order in which ``fill`` asks for it."""
        _, indices = self.order.visit(n)
        needs_ends = isinstance(self.dataset, PretrainDataset)  # plans of packing have them
        where = spans(self.dataset, indices)
        yield from blocks_of(self.dataset.tokens, where, with_ends=needs_ends)


def spans(dataset: PretrainDataset | PackedDataset, indices: Ints) -> list[tuple[int, int]]:
    """Return where, in the stream, the tokens of samples lie: [start, stop) of each piece."""
    if isinstance(dataset, PretrainDataset):
        starts = indices * dataset.sequence_length
        stops = starts + dataset.sequence_length + 1
    else:
        pieces = dataset.index.pieces_of(indices)
        # Pieces count within their shard, spans within the stream.
        starts = pieces.start + np.array(dataset.tokens.first_token)[pieces.shard]
        stops = starts + pieces.length + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def fetch_ahead(feed: Feed, samples: Iterable[Ints]) -> AbstractContextManager[object]:
    """Download what coming samples need, until the context ends; nothing without remote sources.

    Args:
        feed: Will make the samples; restored, if it is to be.
        samples: Numbers g in the order of reading, batch by batch; may have no end.
    """
    remote = {
        number: stream
        for number, name in enumerate(feed.plan.names)
        if isinstance(stream := feed.streams.get(name), RemoteStream)
    }
    if not remote:
        return nullcontext()
    # One for all streams, as it is the node's.
    cache = next(iter(remote.values())).cache
    return cache.fetch_ahead(coming_blocks(feed, remote, samples), budget_bytes=BUDGET_BYTES)


def coming_blocks(
    feed: Feed, remote: Mapping[int, RemoteStream], samples: Iterable[Ints]
) -> Iterator[Block]:
    """Yield the blocks that hold ``samples``: of each batch, every block once.

    Args:
        feed: Will make the samples.
        remote: Its remote streams, by their number in the plan.
        samples: Numbers g, batch by batch.
    """
    plan = feed.plan
    last = plan.schedule.segments[-1]
    goes_on = any(plan.reads(plan.names[number]) for number in remote)
    for batch in samples:
        if not goes_on and batch[0] >= last.first_sample:
            return  # else the search for the next remote sample would have no end
        sources, n = plan.draw(batch)
        # Source by source, as ``Feed.rows`` reads them.
        found: dict[str, Block] = {}
        for number in sorted(set(sources.tolist()) & set(remote)):
            for block in remote[number].blocks(n[sources == number]):
                found.setdefault(block.key, block)
        yield from found.values()
