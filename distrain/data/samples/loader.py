"""Layer 3: the samples of step s, cut by rank and into microbatches. No state but the schedule.

Which samples step s reads does not depend on the number of ranks: each rank takes a contiguous
part of the global batch, and the parts in order of rank are the batch.
"""

import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.samples.datasets import Dataset, gather
from distrain.data.samples.feed import Feed
from distrain.data.samples.needed import find_needed, shortened
from distrain.data.samples.order import Ints
from distrain.data.samples.rows import Rows
from distrain.errors import DataError

TOKENS_AT_ONCE = 1 << 17
"""Made in one go: numpy's fixed cost of a call is then shared by several small batches."""


@dataclass(frozen=True)
class Microbatch:
    """Input of one forward pass on one rank: ``datasets.Rows`` as tensors, shape (b, T).

    Where only what targets need is computed, T is less than the rows': see ``needed``.

    Args:
        row_groups: Sizes of groups of neighbouring rows that are measured apart from each other;
            ``None``: all rows are one.
        document_lengths: Tokens of each document, on the host whatever the device.
        places: Of the positions whose losses are taken, in the rows laid end to end, shape (n,),
            int64; ``None``: of all.
        places_by_row: How many of them are in each row, on the host.
        places_by_document: How many are in each document, padding included, on the host.
        row_values: See ``Rows``; float64.
    """

    input_ids: Tensor
    target_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    row_groups: tuple[int, ...] | None = None
    document_lengths: tuple[int, ...] = ()
    places: Tensor | None = None
    places_by_row: tuple[int, ...] = ()
    places_by_document: tuple[int, ...] = ()
    row_values: Tensor | None = None

    @classmethod
    def from_rows(cls, rows: Rows, start: int, stop: int) -> Self:
        """View the samples [start, stop) of ``rows``."""
        if rows.needed_only:
            needed = find_needed(rows.target_ids[start:stop])
            short = shortened(rows, start, stop, needed.length)
            whole = cls.from_rows(short, 0, stop - start)
            by_document = np.diff(np.searchsorted(needed.places, short.cu_seqlens))
            return replace(
                whole,
                places=torch.from_numpy(needed.places),
                places_by_row=needed.by_row,
                places_by_document=tuple(by_document.tolist()),
            )
        length, values = rows.input_ids.shape[1], rows.row_values
        # Both limits are there, as no document goes beyond its row.
        first, last = np.searchsorted(rows.cu_seqlens, [start * length, stop * length])
        cu_seqlens = rows.cu_seqlens[first : last + 1] - start * length
        return cls(
            torch.from_numpy(rows.input_ids[start:stop]),
            torch.from_numpy(rows.target_ids[start:stop]),
            torch.from_numpy(rows.position_ids[start:stop]),
            torch.from_numpy(cu_seqlens),
            document_lengths=tuple(np.diff(cu_seqlens).tolist()),
            row_values=None if values is None else torch.from_numpy(values[start:stop]),
        )

    @cached_property
    def num_targets(self) -> int:
        """Positions that are trained on. Waits for the device if the tensors are on one."""
        return _count_targets(self.target_ids)

    @property
    def groups(self) -> tuple[int, ...]:
        """Sizes of the groups of rows."""
        return self.row_groups or (len(self.input_ids),)

    def targets_by_group(self) -> list[int]:
        """Count the positions that are trained on, of each group of rows; waits like the count."""
        if len(self.groups) == 1:
            return [self.num_targets]
        return [_count_targets(part) for part in self.target_ids.split(self.groups)]

    def places_by_group(self) -> list[int]:
        """Count ``places`` in each group of rows."""
        ends = np.cumsum(self.groups)
        totals = np.concatenate([[0], np.cumsum(self.places_by_row)])
        counts: list[int] = np.diff(totals[ends], prepend=0).tolist()
        return counts

    def to(self, device: torch.device) -> "Microbatch":
        """Copy to a device; returns itself if it is there already."""
        return Microbatch(
            self.input_ids.to(device, non_blocking=True),
            self.target_ids.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            self.cu_seqlens.to(device, non_blocking=True),
            self.row_groups,
            self.document_lengths,
            None if self.places is None else self.places.to(device, non_blocking=True),
            self.places_by_row,
            self.places_by_document,
            None if self.row_values is None else self.row_values.to(device, non_blocking=True),
        )


def _count_targets(target_ids: Tensor) -> int:
    # Not by torch, which would count as a wait for the device even where the batch is on the host.
    return int(np.count_nonzero(target_ids.numpy(force=True) != IGNORE_INDEX))


@dataclass(frozen=True)
class Batch:
    """This rank's part of a global batch.

    Args:
        first_sample: Number of the global batch's first sample, counted over the run.
        num_samples: Of the global batch.
        own_first: Number of the first sample of this rank's part, counted likewise.
        digest: Of this rank's samples, 32 bits. The ranks' digests sum up, modulo 2**32, to that of
            the global batch, whatever their number.
        num_padding: Positions of this rank's samples that hold no input.
    """

    microbatches: tuple[Microbatch, ...]
    first_sample: int
    num_samples: int
    own_first: int
    digest: int
    num_padding: int = 0

    @property
    def own_samples(self) -> range:
        """Numbers of the samples in hand: as many as the microbatches have rows."""
        rows = sum(len(part.input_ids) for part in self.microbatches)
        return range(self.own_first, self.own_first + rows)


class Loader:
    """Makes this rank's part of any step's batch.

    Args:
        feed: Makes the run's samples, and knows which of them a step reads.
        micro_batch_size: Samples of one microbatch; a smaller rest is one of its own.
        dp_rank: Which of the ``dp_size`` parts is wanted.
        prefetch: Batches made ahead in threads, at least; 0 makes each when it is asked for.
        num_threads: Threads that make them. Threads, not processes: gathering is a copy outside
            the interpreter's lock, and a process would have to copy it once more.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        micro_batch_size: int,
        dp_rank: int = 0,
        dp_size: int = 1,
        prefetch: int = 2,
        num_threads: int = 1,
    ) -> None:
        if not 0 <= dp_rank < dp_size:
            raise ValueError(f"rank {dp_rank} of {dp_size}")
        self.feed = feed
        self.micro_batch_size = micro_batch_size
        self.dp_rank = dp_rank
        self.dp_size = dp_size
        self.prefetch = prefetch
        self.num_threads = num_threads

    def batch_at(self, step: int) -> Batch:
        """Return this rank's part of the batch of ``step``, counted from 0. Pure."""
        return self._make(range(step, step + 1))[0]

    def _make(self, steps: range) -> list[Batch]:
        """Make the batches of several steps in one go."""
        places = [self._share(step) for step in steps]
        samples = np.concatenate([np.arange(mine, mine + share) for _, _, mine, share in places])
        # One call for all steps, then views: numpy's fixed costs are paid once.
        rows = self.feed.rows(samples)
        batches, start = [], 0
        for first, size, mine, share in places:
            stop = start + share
            parts = (
                Microbatch.from_rows(rows, low, min(low + self.micro_batch_size, stop))
                for low in range(start, stop, self.micro_batch_size)
            )
            digest = rows.digest(mine, start, stop)
            padding = 0 if rows.padding is None else int(rows.padding[start:stop].sum())
            batches.append(Batch(tuple(parts), first, size, mine, digest, padding))
            start = stop
        return batches

    def _share(self, step: int) -> tuple[int, int, int, int]:
        """Return a step's first sample and size, and first sample and size of this rank's part."""
        first, size = self.feed.schedule.samples_of(step)
        # An uneven cut would give ranks different numbers of microbatches, and hang the shorter
        # ones.
        share, rest = divmod(size, self.dp_size)
        if rest:
            raise ValueError(f"a batch of {size} samples for {self.dp_size} ranks")
        return first, size, first + self.dp_rank * share, share

    def _samples(self, step: int) -> Ints:
        """Return the samples g of this rank's part of a step."""
        *_, mine, share = self._share(step)
        return np.arange(mine, mine + share)

    def batches(
        self, start_step: int = 0, stop_step: int | None = None
    ) -> Generator[Batch, None, None]:
        """Yield the batches of ``start_step`` and all later steps; the caller closes it.

        Nothing is made or fetched of ``stop_step`` and what comes after it.
        Blocks of remote shards are downloaded further ahead, in the order of the samples. A
        prefetch error is raised when the first batch of that group is requested.
        """
        steps = range(start_step, sys.maxsize if stop_step is None else stop_step)
        if not steps:
            return
        # This rank's own samples only: each rank looks ahead for itself, into the node's one cache.
        with self.feed.fetch_ahead(map(self._samples, steps)):
            if self.prefetch == 0:
                yield from map(self.batch_at, steps)
            else:
                yield from self._batches_ahead(steps)

    def _batches_ahead(self, steps: range) -> Generator[Batch, None, None]:
        start_step, stop_step = steps.start, steps.stop
        *_, share = self._share(start_step)
        at_once = max(1, TOKENS_AT_ONCE // (share * self.feed.sequence_length))
        ready: deque[Future[list[Batch]]] = deque()
        executor = ThreadPoolExecutor(self.num_threads, thread_name_prefix="loader")
        is_over = threading.Event()

        def make(steps: range) -> list[Batch]:
            # Nobody will read on after an error; to begin would be to wait once more for what
            # did not come.
            if is_over.is_set():
                return []
            try:
                return self._make(steps)
            except BaseException:
                is_over.set()
                raise

        try:
            # Enough for ``prefetch`` and to keep every thread busy; one more is what the caller is
            # reading.
            num_ahead = max(-(-self.prefetch // at_once), self.num_threads) + 1
            while ready or start_step < stop_step:
                while len(ready) < num_ahead and start_step < stop_step:
                    part = range(start_step, min(start_step + at_once, stop_step))
                    ready.append(executor.submit(make, part))
                    start_step = part.stop
                yield from ready.popleft().result()
        finally:
            is_over.set()
            # Waits, because the caller may next close what these threads still read from.
            executor.shutdown(wait=True, cancel_futures=True)


def evaluation_microbatches(
    dataset: Dataset,
    *,
    micro_batch_size: int,
    dp_rank: int = 0,
    dp_size: int = 1,
    indices: Ints | None = None,
) -> Iterator[Microbatch]:
    """Yield this rank's share of the samples ``indices``, or of all, in that order.

    Each is read once over all ranks. Every rank gets the same number of microbatches, for a
    forward pass may be collective; a rank that has no sample left gets one without targets.

    Raises:
        DataError: There is no sample.
    """
    chosen = np.arange(len(dataset)) if indices is None else indices
    if not len(chosen):
        raise DataError(
            "evaluation data",
            "less than one sample",
            "at least one",
            "Add documents, raise data.validation_fraction, or shorten training.sequence_length.",
        )
    for share in evaluation_shares(
        len(chosen), micro_batch_size=micro_batch_size, dp_rank=dp_rank, dp_size=dp_size
    ):
        if share:
            rows = gather(dataset, chosen[share.start : share.stop])
            yield Microbatch.from_rows(rows, 0, len(share))
        else:
            rows = gather(dataset, np.array([0]))
            # The first sample, which always exists; without targets it adds nothing to any sum.
            rows.target_ids[:] = IGNORE_INDEX
            yield Microbatch.from_rows(rows, 0, 1)


def evaluation_shares(
    count: int, *, micro_batch_size: int, dp_rank: int, dp_size: int
) -> Iterator[range]:
    """Yield which of ``count`` samples each microbatch of a rank takes; none, at the end."""
    # Rounds over all ranks: their number depends on ``count`` alone, so no rank is left alone in a
    # collective.
    for first in range(0, count, micro_batch_size * dp_size):
        start = min(first + dp_rank * micro_batch_size, count)
        yield range(start, min(start + micro_batch_size, count))
