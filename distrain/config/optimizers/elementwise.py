"""Optimizers that know nothing but an element's own gradients; every engine takes them."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distrain.config.optimizers.optimizer import Beta, Kept, OptimizerConfig, Small

Decay = Annotated[float, Field(ge=0)]


class AdamWConfig(OptimizerConfig):
    """Layer 8: what makes an update of the gradients."""

    kept: ClassVar[Kept] = Kept({"exp_avg": 4, "exp_avg_sq": 4}, scalars=("step",))

    name: Literal["adamw"] = "adamw"
    """Decoupled weight decay (arXiv 1711.05101)."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay rates of the two moments."""
    eps: Small = 1e-8
    """Added to the root of the second moment."""


class AdamConfig(OptimizerConfig):
    """Layer 8: Adam."""

    kept: ClassVar[Kept] = Kept({"exp_avg": 4, "exp_avg_sq": 4}, scalars=("step",))

    name: Literal["adam"] = "adam"
    """Moments of the gradient, as torch.optim.Adam (arXiv 1412.6980)."""
    weight_decay: Decay = 0.0
    """Added to the gradients of matrices (L2), so that the moments see it."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the two moments."""
    eps: Small = 1e-8
    """Added to the root of the second moment."""


class SgdConfig(OptimizerConfig):
    """Layer 8: stochastic gradient descent."""

    kept: ClassVar[Kept] = Kept({"momentum_buffer": 4})

    name: Literal["sgd"] = "sgd"
    """The gradient, or a sum of those before, as torch.optim.SGD."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Peak, after warm-up."""
    weight_decay: Decay = 0.0
    """Added to the gradients of matrices (L2)."""
    momentum: Beta = 0.9
    """Part of the sum so far that is kept; 0: no sum, and no state."""
    nesterov: bool = False
    """Look ahead along the sum."""

    @model_validator(mode="after")
    def _has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0; set momentum to 0.9")
        return self

    @property
    def keeps(self) -> Kept:
        """Nothing without momentum."""
        return self.kept if self.momentum else Kept({})


class RmspropConfig(OptimizerConfig):
    """Layer 8: RMSprop."""

    kept: ClassVar[Kept] = Kept({"square_avg": 4, "grad_avg": 4, "momentum_buffer": 4})

    name: Literal["rmsprop"] = "rmsprop"
    """The gradient over the root of its mean square, as torch.optim.RMSprop (Hinton, 2012)."""
    weight_decay: Decay = 0.0
    """Added to the gradients of matrices (L2)."""
    alpha: Beta = 0.99
    """Decay rate of the mean square."""
    eps: Small = 1e-8
    """Added to the root."""
    momentum: Beta = 0.0
    """Part of the sum of updates so far that is kept; 0: none."""
    centered: bool = False
    """Divide by the variance instead of the mean square."""

    @property
    def keeps(self) -> Kept:
        """Only what its settings need."""
        needed = {"square_avg": True, "grad_avg": self.centered, "momentum_buffer": self.momentum}
        tensors = {name: size for name, size in self.kept.like_parameter.items() if needed[name]}
        return replace(self.kept, like_parameter=tensors)


class AdagradConfig(OptimizerConfig):
    """Layer 8: Adagrad."""

    kept: ClassVar[Kept] = Kept({"sum": 4})

    name: Literal["adagrad"] = "adagrad"
    """The gradient over the root of its summed squares, as torch.optim.Adagrad (Duchi, 2011)."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Peak, after warm-up."""
    weight_decay: Decay = 0.0
    """Added to the gradients of matrices (L2)."""
    initial_accumulator_value: Annotated[float, Field(ge=0)] = 0.0
    """Of the sum, before the first step."""
    eps: Small = 1e-10
    """Added to the root."""


class LionConfig(OptimizerConfig):
    """Layer 8: Lion."""

    kept: ClassVar[Kept] = Kept({"exp_avg": 4})

    name: Literal["lion"] = "lion"
    """The sign of a momentum, with decoupled weight decay (arXiv 2302.06675)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak, after warm-up; a third to a tenth of AdamW's."""
    weight_decay: Decay = 0.3
    """Applied to matrices only; three to ten times AdamW's."""
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    """Of the momentum within the sign, and of the one that is kept."""
