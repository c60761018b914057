"""The few collectives that the loop itself uses, over host numbers.

They run on a gloo group of their own, beside NCCL on a GPU, so that asking never makes the host
wait for the device. With one process they are the identity and need no process group.
"""

from datetime import timedelta

import torch
import torch.distributed as dist


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

    def sum(self, *values: float) -> list[float]:
        """Sum each value over ranks, in float64: exact for integers below 2**53."""
        if self._group is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self._group)
        return [float(value) for value in tensor]

    def max(self, *values: float) -> list[float]:
        """Take the largest of each value over ranks."""
        if self._group is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group)
        return [float(value) for value in tensor]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is up on at least one rank."""
        return self.max(float(flag))[0] > 0

    def gather(self, value: object) -> list[object]:
        """Collect one picklable value of each rank, in rank order, on every rank."""
        if self._group is None:
            return [value]
        values: list[object] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self._group is not None:
            dist.barrier(group=self._group)
