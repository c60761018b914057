"""Layer 3 over remote shards: the order of reading is known, so blocks are downloaded before it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

from distrain.data.remote.cache.blocks import Block
from distrain.data.samples.order import Ints
from distrain.data.samples.schedule import SamplePlan
from distrain.data.samples.source import OpenedSource

BUDGET_BYTES = 1 << 30
"""Ahead of the reader, in each process: two windows of blocks. More would be for nothing where a
run ends, or is killed, before it comes to them."""


def fetch_ahead(
    plan: SamplePlan, sources: Mapping[str, OpenedSource], samples: Iterable[Ints]
) -> AbstractContextManager[object]:
    """Download what coming samples need, until the context ends; nothing without remote sources.

    Args:
        plan: Says which sample of which source each g is.
        sources: By name; not all that the plan names need be there.
        samples: Numbers g in the order of reading, batch by batch; may have no end.
    """
    remote = {
        number: source
        for number, name in enumerate(plan.names)
        if (source := sources.get(name)) is not None and source.cache is not None
    }
    # One for all sources, as it is the node's.
    cache = next((source.cache for source in remote.values()), None)
    if cache is None:
        return nullcontext()
    return cache.fetch_ahead(coming_blocks(plan, remote, samples), budget_bytes=BUDGET_BYTES)


def coming_blocks(
    plan: SamplePlan, remote: Mapping[int, OpenedSource], samples: Iterable[Ints]
) -> Iterator[Block]:
    """Yield the blocks that hold ``samples``: of each batch, every block once.

    Args:
        plan: Says which sample of which source each g is.
        remote: The sources that download, by their number in the plan.
        samples: Numbers g, batch by batch.
    """
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
