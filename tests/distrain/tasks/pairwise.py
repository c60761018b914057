"""A task for tests: two forward passes before one backward pass, a denominator that is no count of
tokens, two metrics. One file and, where a test wants it, one line: ``register``.

Each row is compared to itself with its targets moved by one position: the update makes its own
targets likelier than those. The weight of a row follows from its number of targets.
"""

from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrain.config.tasks import IGNORE_INDEX, TASK_FORMS, Metric, TaskForm
from distrain.data.samples.loader import Microbatch
from distrain.tasks import TASKS
from distrain.tasks.task import TaskSums, forward_targets

NAME = "pairwise"
FORM = TaskForm(
    trained=Metric("preference", "nats", "weighted pair"),
    others=(Metric("agreement", "", "target token", ".2f"),),
    kinds=frozenset({"pretrain"}),
)


class PairwiseTask:
    form = FORM

    def denominators(self, microbatch: Microbatch) -> list[float]:
        weights = self.weights(microbatch)
        return [float(part.sum()) for part in weights.split(microbatch.groups)]

    def measure(self, module: nn.Module, microbatch: Microbatch) -> TaskSums:
        moved = replace(microbatch, target_ids=microbatch.target_ids.roll(1, dims=1))
        own, other = forward_targets(module, microbatch), forward_targets(module, moved)
        both = (microbatch.target_ids != IGNORE_INDEX) & (moved.target_ids != IGNORE_INDEX)
        margin = ((own - other) * both).mean(1)
        losses = F.softplus(margin) * self.weights(microbatch)
        agreeing = ((own < other) & both).sum(1)

        def grouped(rows: Tensor) -> Tensor:
            return torch.stack([part.sum() for part in rows.split(microbatch.groups)])

        agreement = grouped(agreeing), grouped(both.sum(1))
        return TaskSums(grouped(losses), {"agreement": agreement})

    @staticmethod
    def weights(microbatch: Microbatch) -> Tensor:
        """Rows with an odd number of targets count twice; so ranks have unequal denominators."""
        return 1 + (microbatch.target_ids != IGNORE_INDEX).sum(1) % 2


def register() -> None:
    """The one line (and its section of the schema)."""
    TASK_FORMS[NAME], TASKS[NAME] = FORM, PairwiseTask()


@contextmanager
def registered():
    """Know the task for a while: other tests read the names of all tasks."""
    register()
    try:
        yield
    finally:
        del TASK_FORMS[NAME], TASKS[NAME]
