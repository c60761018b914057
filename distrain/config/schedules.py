"""Sections of the learning rate's schedule, one a shape; ``distrain.optim.schedules`` computes."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distrain.config.forms import NamedSection

Share = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[int, Field(ge=1)]

WARMUPS = ("warmup_steps", "warmup_ratio")
"""The two ways to say how long the warm-up is; a schedule gives at most one."""


class LrSchedulerConfig(NamedSection):
    """Learning rate as a pure function of the step: linear warm-up, then the named shape."""

    name: str
    """Shape after warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Linear rise to the peak."""
    warmup_ratio: Annotated[float | None, Field(ge=0, le=1)] = None
    """The same as a share of the run's steps, rounded up; give at most one of the two."""

    @classmethod
    def forms(cls) -> Mapping[str, type[Self]]:
        """Return the sections by name."""
        return SCHEDULE_SECTIONS  # type: ignore[return-value]  # of the common class, nothing less

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps and self.warmup_ratio is not None:
            raise ValueError(f"give at most one of {' and '.join(WARMUPS)}; found both")
        return self

    def warmup(self, total_steps: int) -> int:
        """Return the steps of warm-up of a run of so many steps."""
        if self.warmup_ratio is not None:
            # Less than a step's rounding error must not make it a step longer.
            return math.ceil(round(self.warmup_ratio * total_steps, 6))
        return self.warmup_steps


class CosineLrConfig(LrSchedulerConfig):
    """Layer 8: learning rate, down half a cosine."""

    name: Literal["cosine"] = "cosine"
    """Half a cosine to the end of the run (arXiv 1608.03983, without restarts)."""
    min_lr_ratio: Share = 0.1
    """Of the peak, at the end."""
    decay_steps: Steps | None = None
    """Has no effect; older recipes may have it."""


class WsdLrConfig(LrSchedulerConfig):
    """Layer 8: learning rate, held and then brought down."""

    name: Literal["wsd"] = "wsd"
    """Constant, then a fall over the last steps (arXiv 2404.06395)."""
    min_lr_ratio: Share = 0.1
    """Of the peak, at the end."""
    decay_steps: Steps | None = None
    """Length of the fall; default a tenth of the run."""
    decay: Literal["linear", "cosine", "sqrt"] = "linear"
    """Shape of the fall; ``sqrt``: 1 - sqrt(share of it) (arXiv 2405.18392)."""


class ConstantLrConfig(LrSchedulerConfig):
    """Layer 8: learning rate, held."""

    name: Literal["constant"] = "constant"
    """The peak, to the end."""
    min_lr_ratio: Share = 0.1
    """Has no effect; older recipes may have it."""
    decay_steps: Steps | None = None
    """Has no effect; older recipes may have it."""


class LinearLrConfig(LrSchedulerConfig):
    """Layer 8: learning rate, down a line."""

    name: Literal["linear"] = "linear"
    """In equal steps to the end of the run."""
    min_lr_ratio: Share = 0.0
    """Of the peak, at the end."""


class PolynomialLrConfig(LrSchedulerConfig):
    """Layer 8: learning rate, down a power of what is left of the run."""

    name: Literal["polynomial"] = "polynomial"
    """The share of the run that is left, to a power."""
    power: Annotated[float, Field(gt=0)] = 2.0
    """1 is ``linear``."""
    min_lr_ratio: Share = 0.0
    """Of the peak, at the end."""


class InverseSqrtLrConfig(LrSchedulerConfig):
    """Layer 8: learning rate over the root of the step, for runs of open length."""

    name: Literal["inverse_sqrt"] = "inverse_sqrt"
    """sqrt(timescale / (timescale + steps after warm-up)), of T5 (arXiv 1910.10683)."""
    timescale: Steps | None = None
    """Steps; default: those of the warm-up, or 10000 without one."""


class StepLrConfig(LrSchedulerConfig):
    """Layer 8: learning rate, down in jumps."""

    name: Literal["step"] = "step"
    """Times ``gamma`` after each ``step_size`` steps, from the end of the warm-up on."""
    step_size: Steps = 1000
    """Steps between two jumps."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of a jump."""


class ExponentialLrConfig(LrSchedulerConfig):
    """Layer 8: learning rate, down by the same factor in every step."""

    name: Literal["exponential"] = "exponential"
    """A factor a step, such that the end of the run has the minimum."""
    min_lr_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of the peak, at the end."""


class CosineRestartsLrConfig(LrSchedulerConfig):
    """Layer 8: learning rate, down half a cosine and up again at once."""

    name: Literal["cosine_restarts"] = "cosine_restarts"
    """Warm restarts (SGDR, arXiv 1608.03983)."""
    cycle_steps: Steps | None = None
    """Of the first cycle; default: a quarter of what follows the warm-up."""
    cycle_mult: Steps = 1
    """Length of a cycle over that of the one before."""
    min_lr_ratio: Share = 0.1
    """Of the peak, towards which each cycle falls."""


class CyclicalLrConfig(LrSchedulerConfig):
    """Layer 8: learning rate, up and down in triangles."""

    name: Literal["cyclical"] = "cyclical"
    """From the minimum to the peak and back (arXiv 1506.01186); warm-up would come before."""
    cycle_steps: Annotated[int | None, Field(ge=2)] = None
    """Steps up and down; default: a quarter of what follows the warm-up."""
    mode: Literal["triangular", "triangular2"] = "triangular"
    """``triangular2``: each triangle is half as high as the one before."""
    min_lr_ratio: Share = 0.1
    """Of the peak, at the foot of a triangle."""


class OneCycleLrConfig(LrSchedulerConfig):
    """Layer 8: learning rate, up and down once; its rise takes the place of a warm-up."""

    name: Literal["one_cycle"] = "one_cycle"
    """Super-convergence (arXiv 1708.07120), as torch's OneCycleLR."""
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the steps that rise."""
    div_factor: Annotated[float, Field(ge=1)] = 25.0
    """The peak over the first rate."""
    final_div_factor: Annotated[float, Field(ge=1)] = 1e4
    """The first rate over the last one."""
    anneal: Literal["cosine", "linear"] = "cosine"
    """Shape of rise and fall."""


SCHEDULE_SECTIONS: dict[str, type[LrSchedulerConfig]] = {
    "cosine": CosineLrConfig,
    "wsd": WsdLrConfig,
    "constant": ConstantLrConfig,
    "linear": LinearLrConfig,
    "polynomial": PolynomialLrConfig,
    "inverse_sqrt": InverseSqrtLrConfig,
    "step": StepLrConfig,
    "exponential": ExponentialLrConfig,
    "cosine_restarts": CosineRestartsLrConfig,
    "cyclical": CyclicalLrConfig,
    "one_cycle": OneCycleLrConfig,
}
"""Name -> section; the first is taken where a recipe names none."""
