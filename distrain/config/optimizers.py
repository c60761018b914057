"""Sections of layer 8, one an optimizer, each with what is known of it without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from distrain.config.forms import NamedSection

Beta = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Kept:
    """What an optimizer keeps of each trained parameter between steps.

    A parameter may be without some of the tensors, such as a vector without those of a matrix.

    Args:
        like_parameter: Names of the tensors that are shaped like the parameter -> bytes of one
            element; 0 where only few parameters have it, as vectors beside matrices.
        other_tensors: Names of the tensors of another shape. Under FSDP2 each is a DTensor or the
            same on every rank.
        scalars: Names of single numbers, always finite.
        elementwise: Whether an element's update needs nothing but that element's own gradient and
            state, settings of its group, and scalars that are equal for all parameters of a group.
            ZeRO steps flat pieces of several parameters, so it takes no other optimizer.
    """

    like_parameter: dict[str, int]
    other_tensors: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    elementwise: bool = True

    def __post_init__(self) -> None:
        assert not (self.elementwise and self.other_tensors), "another shape spans elements"

    @property
    def entries(self) -> frozenset[str]:
        """Names of all that is kept."""
        return frozenset((*self.like_parameter, *self.other_tensors, *self.scalars))

    @property
    def bytes_per_parameter(self) -> int:
        """Bytes of state an element of a parameter, without the little of ``other_tensors``."""
        return sum(self.like_parameter.values())


class OptimizerConfig(NamedSection):
    """Layer 8: what every optimizer is told."""

    kept: ClassVar[Kept]

    name: str
    """Of the optimizer."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Peak, after warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Applied to matrices only, not to norms."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """A longer gradient is scaled to this norm, over all parameters."""

    @classmethod
    def forms(cls) -> Mapping[str, type[Self]]:
        """Return the sections by name."""
        return OPTIMIZER_SECTIONS  # type: ignore[return-value]  # of the common class, nothing less


class AdamWConfig(OptimizerConfig):
    """Layer 8: what makes an update of the gradients."""

    kept: ClassVar[Kept] = Kept({"exp_avg": 4, "exp_avg_sq": 4}, scalars=("step",))

    name: Literal["adamw"] = "adamw"
    """Decoupled weight decay (arXiv 1711.05101)."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay rates of the two moments."""
    eps: Annotated[float, Field(gt=0, lt=1)] = 1e-8
    """Added to the root of the second moment."""


OPTIMIZER_SECTIONS: dict[str, type[OptimizerConfig]] = {"adamw": AdamWConfig}
"""Name -> section; the first is taken where a recipe names none."""


def elementwise_optimizers() -> list[str]:
    """Return the names of the optimizers that ZeRO takes."""
    return [name for name, section in OPTIMIZER_SECTIONS.items() if section.kept.elementwise]
