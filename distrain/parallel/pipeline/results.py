"""What was measured of a microbatch, on the last stage and on those that measure nothing."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distrain.config.tasks import TaskForm
from distrain.data.samples.loader import Microbatch
from distrain.tasks.task import TaskSums


@dataclass(frozen=True)
class MeasuredElsewhere(TaskSums):
    """Zeros, of whatever is measured: another rank has the figures."""

    @classmethod
    def of(cls, microbatch: Microbatch, device: torch.device) -> "MeasuredElsewhere":
        """Return those of a microbatch."""
        return cls(torch.zeros(len(microbatch.groups), device=device))

    def stacked(self, form: TaskForm, *, with_denominators: bool = True) -> Tensor:
        """Return zeros, shape (G, ``form.num_sums``)."""
        del with_denominators
        return self.trained.new_zeros((len(self.trained), form.num_sums), dtype=torch.float64)


def detached(measured: TaskSums) -> TaskSums:
    """Return the same without gradients, which would keep a whole forward pass in memory."""
    others = {
        name: (over.detach(), under.detach()) for name, (over, under) in measured.others.items()
    }
    added = None if measured.added is None else measured.added.detach()
    return replace(measured, trained=measured.trained.detach(), others=others, added=added)
