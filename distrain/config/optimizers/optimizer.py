"""What is known of every optimizer without torch: its settings, and what it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from pydantic import Field

from distrain.config.forms import NamedSection
from distrain.config.section import Section

Beta = Annotated[float, Field(ge=0, lt=1)]
Small = Annotated[float, Field(gt=0, lt=1)]


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
        of_shards: Whether the tensors fit only as many shards as they were made for.
    """

    like_parameter: dict[str, int]
    other_tensors: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    elementwise: bool = True
    of_shards: bool = False

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


class ParameterRule(Section):
    """Settings of the parameters whose names match a pattern; see ``OptimizerConfig.groups``."""

    match: Annotated[str, Field(min_length=1)]
    lr_ratio: Annotated[float, Field(ge=0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] | None = None


class OptimizerConfig(NamedSection):
    """Layer 8: what every optimizer is told."""

    kept: ClassVar[Kept]
    """All that it may keep, whatever its settings."""
    takes_fp64: ClassVar[bool] = True
    extra: ClassVar[str | None] = None
    """That brings the module of that name, which the optimizer needs."""

    name: str
    """Of the optimizer."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Peak, after warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Applied to matrices only, not to norms."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """A longer gradient is scaled to this norm, over all parameters; ``null``: none is."""
    groups: tuple[ParameterRule, ...] = ()
    """Other rates and decay by name: ``match`` is a pattern of whole names in an export, whose
    ``*`` stands for anything; ``lr_ratio`` is their rate over that of the others, ``weight_decay``
    theirs, vectors among them. Of several rules that match, the first counts."""

    @classmethod
    def forms(cls) -> Mapping[str, type[Self]]:
        """Return the sections by name."""
        from distrain.config.optimizers import OPTIMIZER_SECTIONS  # lists what imports this

        return OPTIMIZER_SECTIONS  # type: ignore[return-value]  # of the common class, nothing less

    @property
    def tells_sides_apart(self) -> bool:
        """Whether it matters which side of a matrix takes the inputs."""
        return False

    @property
    def keeps(self) -> Kept:
        """What it keeps with these settings."""
        return self.kept
