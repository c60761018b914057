"""What DeepSpeed's ZeRO-3 would allocate at its start beside what training needs.

Training needs, of each rank's shard, the fp32 weights, their gradients and the optimizer's state.
DeepSpeed 0.19 makes two things more, and both are left out here:

- It would take fp32 weights for masters as they are, but compares their device with the name of
  its own (``torch.device("cpu") == "cpu"``), which is never true, and copies them: for good.
- Before the first step it gives every master a gradient of zeros, and takes it away again. Only
  ``torch.optim.Adagrad`` asks for that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from distrain.models.weights.freed_memory import release_freed_memory


@contextmanager
def without_copies() -> Iterator[None]:
    """Let a ZeRO-3 optimizer that is made meanwhile share masters with weights, where it can."""
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3 as Stage3

    # Both are DeepSpeed's private steps of its constructor, so no setting reaches them. A release
    # without one of them fails here, and not by silently taking the memory again.
    make_masters = Stage3._create_fp32_partitions
    make_states = Stage3.initialize_optimizer_states

    def share_masters(zero: _Constructed) -> None:
        release_freed_memory()  # of the shards that it has laid end to end
        zero.device = torch.device(zero.device)
        make_masters(zero)

    def make_needed_states(zero: _Constructed) -> None:
        if isinstance(zero.optimizer, torch.optim.Adagrad):
            make_states(zero)

    Stage3._create_fp32_partitions = share_masters
    Stage3.initialize_optimizer_states = make_needed_states
    try:
        yield
    finally:
        Stage3._create_fp32_partitions = make_masters
        Stage3.initialize_optimizer_states = make_states


class _Constructed(Protocol):
    """What is used of the optimizer while it is made."""

    device: str | torch.device
    optimizer: torch.optim.Optimizer
    fp32_partitioned_groups_flat: list[Tensor]
