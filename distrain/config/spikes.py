"""Section of layer 11: what counts as a spike of loss or gradient norm, and what is done then."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distrain.config.section import Section

OnSpike = Literal["report", "skip", "rewind"]
Deviations = Annotated[float, Field(gt=0)]


class SpikesConfig(Section):
    """Layer 11: which loss or gradient norm is a spike, and what a rewind leaves out."""

    window: Annotated[int, Field(ge=8)] = 128
    """Steps whose values say what is usual: the last ones that were applied, with finite values."""
    warmup_steps: Annotated[int, Field(ge=4)] = 32
    """Steps that the window must hold before a step is judged; at most ``window``."""
    loss_threshold: Deviations | None = 10.0
    """How far above the window's median a loss may lie, in median absolute deviations (of which one
    counts as 1 % of the median at least); ``null``: no loss is a spike."""
    grad_norm_threshold: Deviations | None = 20.0
    """The same of the gradient norm before clipping, which scatters more."""
    steps_before: Annotated[int, Field(ge=0)] = 5
    """Of a rewind: steps before the spike that are left out with it."""
    steps_after: Annotated[int, Field(ge=0)] = 5
    """Of a rewind: steps after the spike that are left out with it."""
    max_rewinds: Annotated[int, Field(ge=1)] = 10
    """Of the stage; the spike after that many ends it for good."""

    @model_validator(mode="after")
    def _judges_at_all(self) -> Self:
        if self.warmup_steps > self.window:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is above window {self.window}, which never "
                "holds as many: no step would be judged"
            )
        return self
