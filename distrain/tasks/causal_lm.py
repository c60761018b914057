"""Next-token prediction: the mean cross-entropy over all target tokens."""

from torch import nn

from distrain.config.tasks import CAUSAL_LM, TASK_FORMS
from distrain.data.samples.loader import Microbatch
from distrain.tasks.task import TaskSums, forward_targets


class CausalLmTask:
    """One forward pass; the denominator is the number of target tokens."""

    form = TASK_FORMS[CAUSAL_LM]

    def denominators(self, microbatch: Microbatch) -> list[float]:
        """Count the targets of each group of rows."""
        return [float(count) for count in microbatch.targets_by_group()]

    def measure(self, module: nn.Module, microbatch: Microbatch) -> TaskSums:
        """Sum the losses of each group of rows."""
        return TaskSums(forward_targets(module, microbatch, microbatch.groups))
