"""The metrics of a whole set of samples, measured by one process with whole weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distrain.data.samples.datasets import Dataset
from distrain.data.samples.examples import ExampleDataset
from distrain.data.samples.loader import evaluation_microbatches
from distrain.data.samples.order import Ints
from distrain.evaluation.bootstrap import ExampleSums
from distrain.evaluation.examples import sum_examples
from distrain.evaluation.measuring import Measure
from distrain.models.causal_lm import CausalLM
from distrain.models.weights.source import WeightSource
from distrain.parallel.device_map import DeviceMemory, load_weights
from distrain.tasks.task import Task, means


@dataclass(frozen=True)
class Summed:
    """What was found over a set of samples.

    Args:
        metrics: Of the task, by name.
        num_targets: Target tokens.
    """

    metrics: Mapping[str, float]
    num_targets: int


class Meter:
    """Measures samples with one model in this process.

    Args:
        model: On the meta device; gets its weights from ``load``.
        micro_batch_size: Samples of one forward pass.
        memory: Of the devices that it may take.
    """

    def __init__(self, model: CausalLM, micro_batch_size: int, memory: DeviceMemory) -> None:
        self.model = model
        self.micro_batch_size = micro_batch_size
        self._memory = memory

    def of(self, model: CausalLM) -> "Meter":
        """Return what measures another model in the same way, once this one has let go of its."""
        return Meter(model, self.micro_batch_size, self._memory)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self._memory.main

    def load(self, weights: WeightSource) -> None:
        """Take whole parameters, one at a time; a tied output layer may be missing."""
        load_weights(self.model, weights, self._memory)
        self.model.eval()

    @torch.no_grad()
    def measure(
        self,
        dataset: Dataset,
        task: Task,
        count_bytes: Callable[[], NDArray[np.int64]] | None = None,
    ) -> Summed:
        """Sum over all samples, each once.

        Args:
            dataset: The samples.
            task: What to measure.
            count_bytes: As ``Measure`` takes it.
        """
        measured = Measure(task, self._memory.main, count_bytes)
        form = measured.form
        sums = torch.zeros(1, form.num_sums, dtype=torch.float64, device=self._memory.main)
        denominator, num_targets = 0.0, 0
        for part in evaluation_microbatches(dataset, micro_batch_size=self.micro_batch_size):
            sums += measured(self.model, part).stacked(form)
            denominator += sum(task.denominators(part))
            num_targets += part.num_targets
        (row,) = sums.tolist()
        return Summed(means(form, denominator, row), num_targets)

    def sum_examples(self, dataset: ExampleDataset, chosen: Ints, task: Task) -> ExampleSums:
        """Measure examples one by one; see ``distrain.evaluation.examples``."""
        return sum_examples(
            self.model,
            Measure(task, self._memory.main),
            dataset,
            chosen,
            micro_batch_size=self.micro_batch_size,
        )
