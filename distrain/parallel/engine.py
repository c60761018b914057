"""The seam between the training loop and what wraps the model: one small protocol.

Nothing outside ``distrain/parallel/engines`` knows which engine runs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from distrain.data.samples.loader import Microbatch
from distrain.optim.state import ScalarState
from distrain.parallel.global_tensor import State
from distrain.parallel.ranks import Ranks
from distrain.tasks.task import TaskSums


@dataclass(frozen=True)
class Update:
    """What became of one update; the same on every rank.

    Args:
        grad_norm: L2 norm of the global gradient before clipping; infinite where the engine
            computed none.
        applied: Whether parameters and the optimizer's state changed.
    """

    grad_norm: float
    applied: bool


def may_apply(loss: float, grad_norm: float) -> bool:
    """Return whether an update is made: only if loss and norm, both of all ranks, are finite."""
    return math.isfinite(loss) and math.isfinite(grad_norm)


TrainingMeasure = Callable[[int, Microbatch], TaskSums]
Measure = Callable[[Microbatch], TaskSums]


class OneByOne(ABC):
    """What engines share in which a rank takes each microbatch through the whole model."""

    @abstractmethod
    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Surround one microbatch; gradients are reduced over ranks in the last one only."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Layer 7, of one microbatch."""

    def passes(
        self, microbatches: Sequence[Microbatch], measure: TrainingMeasure, scale: float
    ) -> Iterator[TaskSums]:
        """Run each forward pass and its backward pass; see ``Engine``."""
        for number, microbatch in enumerate(microbatches, start=1):
            with self.accumulate(last=number == len(microbatches)):
                measured = measure(number, microbatch)
                self.backward(measured.objective * scale)
            yield measured

    def measurements(
        self, microbatches: Iterable[Microbatch], measure: Measure
    ) -> Iterator[TaskSums]:
        """Run each forward pass; see ``Engine``."""
        return map(measure, microbatches)


class Engine(Protocol):
    """A model and its optimizer, laid over the ranks of a run.

    Every method is collective unless it says otherwise: all ranks call it, in the same order.
    """

    ranks: Ranks
    """Which part of the global batch this rank reads, and over which ranks data are summed."""

    @property
    def model(self) -> nn.Module:
        """What the forward pass calls (wrapped). Reading it is not collective."""

    @property
    def whole_model(self) -> nn.Module | None:
        """The model itself, where each rank has all of it; ``None``: a pass is collective."""

    def passes(
        self, microbatches: Sequence[Microbatch], measure: TrainingMeasure, scale: float
    ) -> Iterator[TaskSums]:
        """Layers 4 to 7: run the forward and backward passes of a step.

        Args:
            microbatches: This rank's, at least one; all ranks have equally many.
            measure: Layers 4 to 6 of one of them, given its number from 1: calls ``model``.
            scale: By which objectives are multiplied. Gradients are averaged over
                ``ranks.averaged_over`` ranks and divided by nothing else.

        Yields:
            What was measured, microbatch by microbatch; zeros where another rank measures.
        """

    def measurements(
        self, microbatches: Iterable[Microbatch], measure: Measure
    ) -> Iterator[TaskSums]:
        """Run forward passes alone, as ``passes`` does; all ranks have equally many."""

    def fetch(self, sums: Tensor) -> tuple[list[float], float]:
        """Read numbers from the device, after the last of ``passes`` and before the update.

        The gradients' norm comes along, so that the host waits for the device once a step.

        Args:
            sums: Of this rank, one axis, float64.

        Returns:
            The numbers, and the L2 norm of the global gradient as this rank has it; 0 under
            DeepSpeed, which computes it, and waits for it, in its update.
        """

    def update(
        self, lr: float, max_grad_norm: float | None, loss: float, grad_norm: float
    ) -> Update:
        """Layer 8: clip, step with learning rate ``lr``, clear the gradients.

        ``fetch`` comes before it. Where ``may_apply`` says no, no rank changes anything but its
        gradients, which are cleared all the same.

        Args:
            lr: Learning rate of the update.
            max_grad_norm: Global L2 norm to which gradients are clipped; ``None``: they are not.
            loss: Mean over the global batch, the same on every rank.
            grad_norm: The largest that ``fetch`` returned on any rank: the same on every rank.
        """

    def state(self, *, optimizer: bool = True) -> State:
        """Show this rank's part of parameters, buffers and (on request) the optimizer's tensors.

        Parameters are the fp32 (or fp64) master weights; a tensor of the optimizer's is named
        ``<entry>/<plain name>``. The boxes are views: writing into them changes the engine, once
        ``loaded`` is called. Not collective.
        """

    def optimizer_scalars(self) -> ScalarState:
        """Return what the optimizer keeps of the trained parameters besides tensors.

        Collective under a pipeline, whose stages tell each other of theirs: all ranks call it, at
        the same place.
        """

    def loaded(self, optimizer: ScalarState | None) -> None:
        """Take over what was written into the boxes of ``state``.

        Args:
            optimizer: What ``optimizer_scalars`` returned at the save; ``None`` when only
                parameters were loaded.

        Raises:
            CheckpointError: A scalar is missing, or differs within one group of an engine that
                keeps one a group.
        """

    def close(self) -> None:
        """Release what the engine holds; the process ends after this."""
