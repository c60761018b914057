"""The stages of one rank, each of them a model, and what the rest of distrain calls instead."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from distrain.models.causal_lm import CausalLM, model_in
from distrain.parallel.pipeline.cut import Inbox


@dataclass(frozen=True)
class HeldStage:
    """A stage that this rank holds.

    Args:
        module: The model, cut and wrapped.
        inbox: Where the hidden states go that it begins with.
    """

    module: nn.Module
    inbox: Inbox

    @property
    def model(self) -> CausalLM:
        """The model within what wraps it."""
        return model_in(self.module)


class StageModules(nn.ModuleList):
    """The stages of a rank, as the model that others call.

    Args:
        stages: The rank's.
        run_all: A pass through the stages of all ranks. Collective.
    """

    def __init__(self, stages: Iterable[HeldStage], run_all: Callable[..., Tensor]) -> None:
        super().__init__(stage.module for stage in stages)
        self.run_all = run_all
        self.is_scheduled = False
        """Whether a schedule runs: what is called then is the last stage, whose turn it is."""

    def forward(self, *args: Any, **keywords: Any) -> Tensor:  # noqa: ANN401
        """Run the last stage within a schedule, else the whole model, without gradients."""
        run = self[len(self) - 1] if self.is_scheduled else self.run_all
        output: Tensor = run(*args, **keywords)
        return output
