"""Agreement between all ranks, over host numbers; sums over data are ``Ranks``' to take.

They run on a gloo group of their own, beside NCCL on a GPU, so that asking never makes the host
wait for the device. With one process they are the identity and need no process group. Each is
counted in the rank's progress page, so that somebody outside can see which rank is missing.
"""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from distrain.fault.page import page


class HostGroup:
    """Host-side agreement between all ranks of a run. Every method is collective.

    Args:
        timeout_s: How long a rank waits for the others in one call; ``None``: torch's default.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
        several = self.world_size > 1
        self._group = dist.new_group(backend="gloo", timeout=timeout) if several else None

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """The gloo group itself, for libraries; ``None`` with one process."""
        return self._group

    def gather_numbers(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Collect as many numbers of each rank; shape (world size, numbers), in rank order."""
        mine = np.array([values], dtype=np.float64)
        if self._group is None:
            return mine
        rows = np.empty((self.world_size, len(values)))
        page.wait_begins()
        dist.all_gather_into_tensor(
            torch.from_numpy(rows), torch.from_numpy(mine), group=self._group
        )
        page.wait_ends()
        return rows

    def max(self, *values: float) -> list[float]:
        """Take the largest of each value over ranks."""
        largest: list[float] = self.gather_numbers(values).max(axis=0).tolist()
        return largest

    def any(self, flag: bool) -> bool:
        """Return whether the flag is up on at least one rank."""
        return self.max(float(flag))[0] > 0

    def gather(self, value: object) -> list[object]:
        """Collect one picklable value of each rank, in rank order, on every rank."""
        if self._group is None:
            return [value]
        values: list[object] = [None] * self.world_size
        page.wait_begins()
        dist.all_gather_object(values, value, group=self._group)
        page.wait_ends()
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self._group is not None:
            page.wait_begins()
            dist.barrier(group=self._group)
            page.wait_ends()
