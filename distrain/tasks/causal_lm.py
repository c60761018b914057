"""Next-token prediction: the mean cross-entropy over all target tokens."""

import torch
from torch import nn

from distrain.config.tasks import ACCURACY, CAUSAL_LM, IGNORE_INDEX, TASK_FORMS
from distrain.data.samples.loader import Microbatch
from distrain.tasks.task import TaskSums, forward_targets


class CausalLmTask:
    """One forward pass; the denominator is the number of target tokens."""

    form = TASK_FORMS[CAUSAL_LM]

    def denominators(self, microbatch: Microbatch) -> list[float]:
        """Count the targets of each group of rows."""
        return [float(count) for count in microbatch.targets_by_group()]

    def measure(self, module: nn.Module, microbatch: Microbatch) -> TaskSums:
        """Sum the losses of each group of rows; outside of training, the hits too."""
        # Of what is wrapped: DeepSpeed's engine passes ``eval`` on, and stays in training itself.
        if getattr(module, "module", module).training:
            return TaskSums(forward_targets(module, microbatch, microbatch.groups))
        losses, hits = forward_targets(module, microbatch, microbatch.groups, with_hits=True)
        groups = microbatch.target_ids.split(microbatch.groups)
        # Where the batch is: the host would wait for a device.
        counts = torch.stack([(group != IGNORE_INDEX).sum() for group in groups])
        return TaskSums(losses, {ACCURACY.name: (hits, counts)})
