"""Layer 3: the samples of step s, cut by rank and into microbatches. No state but the step.

Step s reads samples [s*B, (s+1)*B) of the run, whatever the number of ranks: B is the global
batch, each rank takes a contiguous part of it, and the parts in order of rank are the batch.
"""

import zlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from distrain.data.order import sample_indices
from distrain.data.samples import IGNORE_INDEX, Dataset, Ids, PretrainDataset, Rows, SftDataset
from distrain.errors import DataError

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "Dataset",
    "Loader",
    "Microbatch",
    "PretrainDataset",
    "SftDataset",
    "evaluation_microbatches",
]


@dataclass(frozen=True)
class Microbatch:
    """Input of one forward pass on one rank: ``samples.Rows`` as tensors, shape (b, T), int64."""

    input_ids: Tensor
    target_ids: Tensor
    document_ids: Tensor
    position_ids: Tensor

    @classmethod
    def from_rows(cls, rows: Rows, start: int, stop: int) -> Self:
        """View the samples [start, stop) of ``rows``."""
        return cls(
            torch.from_numpy(rows.input_ids[start:stop]),
            torch.from_numpy(rows.target_ids[start:stop]),
            torch.from_numpy(rows.document_ids[start:stop]),
            torch.from_numpy(rows.position_ids[start:stop]),
        )

    @property
    def num_targets(self) -> int:
        """Positions that are trained on. Waits for the device if the tensors are on one."""
        return int((self.target_ids != IGNORE_INDEX).sum())

    def to(self, device: torch.device) -> "Microbatch":
        """Copy to a device; returns itself if it is there already."""
        return Microbatch(
            self.input_ids.to(device),
            self.target_ids.to(device),
            self.document_ids.to(device),
            self.position_ids.to(device),
        )


@dataclass(frozen=True)
class Batch:
    """This rank's part of a global batch.

    Args:
        first_sample: Number of the global batch's first sample, counted over the run.
        num_samples: Of the global batch.
        crc: CRC-32 of this rank's input and target ids, the same for any cut into microbatches.
    """

    microbatches: tuple[Microbatch, ...]
    first_sample: int
    num_samples: int
    crc: int


class Loader:
    """Makes this rank's part of any step's batch.

    Args:
        dataset: Train samples.
        seed: Of the order; see ``order.sample_indices``.
        global_batch_size: B, over all ranks; a multiple of ``dp_size``.
        micro_batch_size: Samples of one microbatch; a smaller rest is one of its own.
        dp_rank: Which of the ``dp_size`` parts is wanted.
        prefetch: Batches made ahead in a thread; 0 makes each when it is asked for.
        shuffle: Whether epochs are permuted.

    Raises:
        DataError: The dataset does not fill one global batch.
    """

    def __init__(  # noqa: PLR0913  (the batch's cut is what a loader is)
        self,
        dataset: Dataset,
        *,
        seed: int,
        global_batch_size: int,
        micro_batch_size: int,
        dp_rank: int = 0,
        dp_size: int = 1,
        prefetch: int = 2,
        shuffle: bool = True,
    ) -> None:
        if global_batch_size % dp_size or not 0 <= dp_rank < dp_size:
            raise ValueError(f"rank {dp_rank} of {dp_size} with a batch of {global_batch_size}")
        if len(dataset) < global_batch_size:
            raise _too_small(len(dataset), global_batch_size, dp_size)
        self.dataset = dataset
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.dp_rank = dp_rank
        self.dp_size = dp_size
        self.prefetch = prefetch
        self.shuffle = shuffle

    def sample_indices_at(self, step: int) -> Ids:
        """Return the dataset indices of the whole global batch of ``step``. Pure."""
        first = step * self.global_batch_size
        samples = np.arange(first, first + self.global_batch_size, dtype=np.int64)
        if not self.shuffle:
            return samples % len(self.dataset)
        return sample_indices(self.seed, samples, len(self.dataset))[1]

    def batch_at(self, step: int) -> Batch:
        """Return this rank's part of the batch of ``step``, counted from 0. Pure."""
        share = self.global_batch_size // self.dp_size
        mine = slice(self.dp_rank * share, (self.dp_rank + 1) * share)
        rows = self.dataset.gather(self.sample_indices_at(step)[mine])
        size = self.micro_batch_size
        return Batch(
            tuple(
                Microbatch.from_rows(rows, start, min(start + size, share))
                for start in range(0, share, size)
            ),
            step * self.global_batch_size,
            self.global_batch_size,
            zlib.crc32(rows.target_ids.data, zlib.crc32(rows.input_ids.data)),
        )

    def batches(self, start_step: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of ``start_step`` and all later steps; the caller closes it.

        An error met while making a batch ahead is raised when that batch is due.
        """
        if self.prefetch == 0:
            while True:
                yield self.batch_at(start_step)
                start_step += 1
        ready: deque[Future[Batch]] = deque()
        # One thread: gathering is a copy, and its order is that of the steps.
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        try:
            while True:
                while len(ready) < self.prefetch:
                    ready.append(executor.submit(self.batch_at, start_step))
                    start_step += 1
                batch = ready.popleft().result()
                ready.append(executor.submit(self.batch_at, start_step))
                start_step += 1
                yield batch
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def evaluation_microbatches(
    dataset: Dataset,
    *,
    micro_batch_size: int,
    dp_rank: int = 0,
    dp_size: int = 1,
    max_samples: int | None = None,
) -> Iterator[Microbatch]:
    """Yield this rank's share of all samples, each once over all ranks, in their own order.

    Every rank gets the same number of microbatches, for a forward pass may be collective; a rank
    that has no sample left gets one without targets. ``max_samples`` leaves out all later ones.

    Raises:
        DataError: The dataset is empty.
    """
    total = len(dataset) if max_samples is None else min(max_samples, len(dataset))
    if total < 1:
        raise DataError(
            "evaluation data",
            "less than one sample",
            "at least one",
            "Add documents, raise data.validation_fraction, or shorten training.sequence_length.",
        )
    for first in range(0, total, micro_batch_size * dp_size):
        start = min(first + dp_rank * micro_batch_size, total)
        stop = min(start + micro_batch_size, total)
        if start < stop:
            yield Microbatch.from_rows(dataset.gather(np.arange(start, stop)), 0, stop - start)
        else:
            rows = dataset.gather(np.array([0]))
            rows.target_ids[:] = IGNORE_INDEX
            yield Microbatch.from_rows(rows, 0, 1)


def _too_small(num_samples: int, global_batch_size: int, dp_size: int) -> DataError:
    fitting = num_samples - num_samples % dp_size
    lower = f"lower training.global_batch_size to {fitting}" if fitting else "use fewer ranks"
    return DataError(
        "training.global_batch_size",
        f"{num_samples} samples in the train split for a global batch of {global_batch_size}",
        f"at least {global_batch_size} samples",
        f"Add documents, shorten training.sequence_length, or {lower}.",
    )
