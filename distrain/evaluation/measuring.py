"""One microbatch of a measurement: the task's sums, and the bytes of its targets."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distrain.config.tasks import BITS_PER_BYTE, IGNORE_INDEX, TaskForm
from distrain.data.samples.loader import Microbatch
from distrain.fault.page import mark
from distrain.tasks.task import Task, TaskSums


@dataclass(frozen=True)
class Measure:
    """What a validation or a test takes of each microbatch.

    Args:
        task: Layer 6.
        count_bytes: Returns the length of each token in UTF-8, shape (V,); asked when it is first
            needed. ``None``: nobody knows.
        device: Where the microbatches go.
    """

    task: Task
    device: torch.device
    count_bytes: Callable[[], NDArray[np.int64]] | None = None

    @cached_property
    def form(self) -> TaskForm:
        """What is measured, in the order in which sums lie."""
        return self.task.form.of_validation(has_bytes=self.count_bytes is not None)

    @cached_property
    def _token_bytes(self) -> NDArray[np.int64]:
        assert self.count_bytes is not None, "the form has no bits per byte then"
        return self.count_bytes()

    def __call__(self, module: nn.Module, microbatch: Microbatch) -> TaskSums:
        """Run the forward passes of a microbatch that is on the host."""
        mark()
        measured = self.task.measure(module, microbatch.to(self.device))
        if BITS_PER_BYTE not in self.form.others:
            return measured
        sizes = measured.trained.new_tensor(self._bytes_by_group(microbatch))
        # The bytes of the targets themselves: a document's first token is no target.
        found = (measured.trained.detach() / math.log(2), sizes)
        return TaskSums(measured.trained, {**measured.others, BITS_PER_BYTE.name: found})

    def _bytes_by_group(self, microbatch: Microbatch) -> list[int]:
        groups = microbatch.target_ids.split(microbatch.groups)
        return [
            int(self._token_bytes[group[group != IGNORE_INDEX].numpy()].sum()) for group in groups
        ]
