"""Layer 3: the run's samples, wherever they come from: sources, their order, and their mixture."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distrain.data.remote.cache.blocks import Block
from distrain.data.remote.shards import blocks_of
from distrain.data.samples.ahead import fetch_ahead
from distrain.data.samples.datasets import Dataset, DocumentDataset
from distrain.data.samples.order import ORDER_VERSION, Ints, Order
from distrain.data.samples.rows import RowBuffer, Rows
from distrain.data.samples.schedule import SamplePlan, Schedule
from distrain.data.samples.source import OpenedSource, SourceTokens, Visits
from distrain.data.shards.reader import Split
from distrain.errors import DataError


class OrderedStream(OpenedSource):
    """Ready samples in a keyed order.

    Args:
        content: Digest of what ``dataset`` reads, of its manifest say.
    """

    def __init__(self, dataset: Dataset, order: Order, content: str) -> None:
        self.dataset = dataset
        self.order = order
        self.content = content
        self.sequence_length = dataset.sequence_length
        self.num_samples = len(dataset)

    @property
    def fingerprint(self) -> str:
        """Of everything that makes sample n what it is."""
        order = self.order
        # Without blocks there are no windows: their setting may change, the order does not.
        blocks = (order.block_samples, order.block_samples and order.window_blocks)
        made = [*self.dataset.signature, self.sequence_length, len(self.dataset), *blocks]
        text = json.dumps([ORDER_VERSION, order.seed, order.source, made, self.content])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def fill(self, buffer: RowBuffer, rows: Ints, n: Ints) -> None:
        """Write the source's samples ``n``, counted over all epochs, into ``rows``."""
        self.dataset.fill(buffer, rows, self.order.visit(n)[1])


class DocumentStream(OrderedStream):
    """Samples in a keyed order that are cut from the documents of a split, here or at a URL.

    Args:
        dataset: Cuts them from ``source.tokens``.
    """

    dataset: DocumentDataset

    def __init__(self, dataset: DocumentDataset, order: Order, source: SourceTokens) -> None:
        super().__init__(dataset, order, source.digest)
        self.source = source
        self.cache = source.cache

    @property
    def splits(self) -> Sequence[Split]:
        """Local splits that the shards are of; see ``OpenedSource``."""
        return self.source.tokens.splits

    def token_counts(self) -> NDArray[np.int64]:
        """Return how often each id occurs, shape (V,)."""
        return self.source.token_counts()

    def reach(self, n: int) -> tuple[DocumentDataset, Visits]:
        """Return all samples, for all are there."""
        return self.dataset, self.order

    def blocks(self, n: Ints) -> Iterator[Block]:
        """Yield what the samples ``n`` are made of, in the order in which ``fill`` asks for it."""
        _, indices = self.order.visit(n)
        where = self.dataset.spans(indices)
        yield from blocks_of(self.dataset.tokens, where, with_ends=self.dataset.reads_ends)


class Feed:
    """Makes samples g of the run. Its only state is the schedule.

    Args:
        streams: By the name of their source; all of one sequence length.
        schedule: Planned, as if the run began now; see ``restore``.
        seed: The recipe's.
    """

    def __init__(self, streams: Mapping[str, OpenedSource], schedule: Schedule, seed: int) -> None:
        self.streams = streams
        self.seed = seed
        self.sequence_length = next(iter(streams.values())).sequence_length
        self.plan = SamplePlan(seed, schedule)
        # A run may go back more than once in a process, each time as a new process would.
        self._planned = schedule

    @property
    def schedule(self) -> Schedule:
        """The schedule by which steps read samples."""
        return self.plan.schedule

    def rows(self, samples: Ints) -> Rows:
        """Make the samples g, in that order. Safe in threads."""
        buffer = RowBuffer(len(samples), self.sequence_length)
        plan = self.plan
        sources, n = plan.draw(samples)
        # Each source fills its rows of one buffer: samples are put together without another copy.
        for number in set(sources.tolist()):
            (rows,) = np.nonzero(sources == number)
            self.streams[plan.names[number]].fill(buffer, rows, n[rows])
        return buffer.finish()

    def fetch_ahead(self, samples: Iterable[Ints]) -> AbstractContextManager[object]:
        """Download what coming samples need, until the context ends.

        Args:
            samples: Numbers g in the order of reading, batch by batch; may have no end.
        """
        return fetch_ahead(self.plan, self.streams, samples)

    def close(self) -> None:
        """Close all streams: no further sample will be asked for."""
        for stream in self.streams.values():
            stream.close()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: under a kilobyte for a handful of changes."""
        names = self.plan.names
        return {
            "schedule": self.schedule.to_json(),
            "sources": {name: self.streams[name].fingerprint for name in names},
        }

    def next_samples(self, step: int, schedule: Schedule | None = None) -> str:
        """Digest which samples step ``step``, from 0, reads: nothing of them is made.

        Args:
            step: Steps before it.
            schedule: Another one than that of the feed.
        """
        plan = self.plan if schedule is None else SamplePlan(self.seed, schedule)
        first, size = plan.schedule.samples_of(step)
        sources, n = plan.draw(np.arange(first, first + size))
        # A fingerprint covers all that makes sample n of a source what it is.
        read = {name: self.streams[name].fingerprint for name in plan.names}
        text = json.dumps([first, sources.tolist(), n.tolist(), sorted(read.items())])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """Go on after ``step`` steps of the run that wrote ``state``, by the present plan.

        Raises:
            DataError: A source that the run has read is not what it was.
        """
        # Every source that the run has read, even if no later step reads it: the checkpoint's
        # schedule counts its samples, and would else name others.
        past = Schedule.from_json(state["schedule"])
        for name, fingerprint in state["sources"].items():
            if name not in self.streams:
                raise DataError(
                    f"data of source '{name}'",
                    "no such source, though the run has read from it",
                    "every source that the checkpoint's run has read",
                    "Name the source again; to read no more of it, leave it out of data.mixture.",
                )
            if self.streams[name].fingerprint != fingerprint:
                raise DataError(
                    f"data of source '{name}'",
                    "other shards, order, packing or sequence length than the checkpoint's run",
                    "the same, or samples would be lost and repeated",
                    "Restore the prepared shards and the stage's settings, or start a new run.",
                )
        self.plan = SamplePlan(self.seed, past.continued(step, self._planned))
