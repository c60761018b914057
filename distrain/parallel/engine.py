"""The seam between the training loop and what wraps the model: one small protocol.

Nothing outside ``distrain/parallel/engines`` knows which engine runs.
"""

from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor, nn

from distrain.parallel.global_tensor import State


class Engine(Protocol):
    """A model and its optimizer, laid over the ranks of a run.

    Every method is collective unless it says otherwise: all ranks call it, in the same order.
    """

    dp_rank: int
    """Which slice of the global batch this rank reads."""
    dp_size: int

    @property
    def model(self) -> nn.Module:
        """What the forward pass calls (wrapped). Reading it is not collective."""

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Surround one microbatch; gradients are reduced over ranks in the last one only."""

    def backward(self, loss: Tensor) -> None:
        """Layer 7. The engine averages gradients over ranks and divides by nothing else."""

    def update(self, lr: float, max_grad_norm: float) -> float:
        """Layer 8: clip, step with learning rate ``lr``, clear the gradients.

        When the norm is not finite, no rank makes an update; gradients are cleared all the same.

        Returns:
            The global L2 norm before clipping, the same on every rank.
        """

    def state(self, *, optimizer: bool = True) -> State:
        """Show this rank's part of parameters, persistent buffers and (on request) moments.

        Parameters are the fp32 (or fp64) master weights. The boxes are views: writing into them
        changes the engine, once ``loaded`` is called. Not collective.
        """

    def optimizer_steps(self) -> dict[str, int]:
        """Adam's step of each trained parameter, by plain name. Not collective."""

    def loaded(self, optimizer_steps: dict[str, int] | None) -> None:
        """Take over what was written into the boxes of ``state``.

        Args:
            optimizer_steps: What ``optimizer_steps`` returned at the save; ``None`` when only
                parameters were loaded.

        Raises:
            CheckpointError: Steps differ within one group of an engine that keeps one a group.
        """

    def close(self) -> None:
        """Release what the engine holds; the process ends after this."""
