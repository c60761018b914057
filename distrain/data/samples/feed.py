"""Layer 3: the run's samples, wherever they come from: sources, their order, and their mixture."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from distrain.data.samples.datasets import Dataset, RowBuffer, Rows
from distrain.data.samples.order import ORDER_VERSION, Ints, Order
from distrain.data.samples.schedule import SamplePlan, Schedule
from distrain.errors import DataError


class Stream(Protocol):
    """A source's samples in the order in which a run reads them, epoch after epoch."""

    @property
    def sequence_length(self) -> int:
        """Tokens of a sample."""
        ...

    @property
    def num_samples(self) -> int | None:
        """In an epoch; ``None`` where nobody has counted them yet."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of everything that makes sample n what it is."""
        ...

    def fill(self, buffer: RowBuffer, rows: Ints, n: Ints) -> None:
        """Write the source's samples ``n``, counted over all epochs, into ``rows``."""
        ...

    def close(self) -> None:
        """Stop making samples; who waits for one gets an error."""
        ...


@dataclass(frozen=True)
class OrderedStream:
    """Ready samples in a keyed order.

    Args:
        content: Digest of what ``dataset`` reads, of its manifest say.
    """

    dataset: Dataset
    order: Order
    content: str

    @property
    def sequence_length(self) -> int:
        """Tokens of a sample."""
        return self.dataset.sequence_length

    @property
    def num_samples(self) -> int:
        """In an epoch."""
        return len(self.dataset)

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

    def close(self) -> None:
        """Do nothing: ready samples are not made."""


class Feed:
    """Makes samples g of the run. Its only state is the schedule.

    Args:
        streams: By the name of their source; all of one sequence length.
        schedule: Planned, as if the run began now; see ``restore``.
        seed: The recipe's.
    """

    def __init__(self, streams: Mapping[str, Stream], schedule: Schedule, seed: int) -> None:
        self.streams = streams
        self.seed = seed
        self.sequence_length = next(iter(streams.values())).sequence_length
        self.plan = SamplePlan(seed, schedule)

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
        self.plan = SamplePlan(self.seed, past.continued(step, self.schedule))
