"""Section of fine-tuning with low-rank adapters: which layers get one, how large, what else trains.

Settings, and what a pattern means, are peft's own, so that a configuration can be carried over.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distrain.config.section import Section

Positive = Annotated[int, Field(ge=1)]

ALL_LINEAR = "all-linear"


class QuantizationConfig(Section):
    """The frozen linear layers in 4 bits (QLoRA, arXiv 2305.14314); head and embedding stay."""

    EXTRA: ClassVar[str] = "bitsandbytes"

    quant_type: Literal["nf4", "fp4"] = "nf4"
    """``nf4``: 16 values, as dense as normally distributed weights are; ``fp4``: tiny floats."""
    use_double_quant: bool = True
    """Quantize the scales too: 4.13 bits a weight instead of 4.5."""


class LoraConfig(Section):
    """Low-rank adaptation (arXiv 2106.09685), in peft's words.

    A stage that trains adapters and states no ``optimizer.learning_rate`` has ten times the
    default.
    """

    r: Positive = 8
    """Rank of the adapters."""
    alpha: Positive = 16
    """The adapters' output is scaled by ``alpha / r``."""
    rank_pattern: dict[str, Positive] = Field(default_factory=dict)
    """Other ranks: a regular expression for the end of a layer's name, as in ``mlp.down_proj`` or
    ``layers\\.[01]\\..*``, and the rank. The first that matches counts."""
    alpha_pattern: dict[str, Positive] = Field(default_factory=dict)
    """Other values of ``alpha``, as in ``rank_pattern``."""
    use_rslora: bool = False
    """Scale by ``alpha / sqrt(r)`` instead, which lets large ranks learn (arXiv 2312.03732)."""
    use_dora: bool = False
    """Train the length of each row of an adapted weight apart from its direction (DoRA, arXiv
    2402.09353): one more vector a layer, and a step that takes longer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On the adapters' input, in training only."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | str = ALL_LINEAR
    """``all-linear``: every linear layer but the head. A list: ends of names, as in ``q_proj`` or
    ``layers.0.mlp.up_proj``. Any other text: a regular expression for whole names."""
    quantization: QuantizationConfig | None = None
    """Keep the frozen layers in 4 bits: an eighth of the memory, a slower step, and a base that is
    a little another one. On a single process or ddp; needs the extra ``bitsandbytes``."""
    modules_to_save: tuple[str, ...] = ()
    """Ends of the names of other modules that are trained whole beside the adapters, as in
    ``embed_tokens``, ``lm_head`` or ``norm``. An embedding that is the head too is untied first."""

    @model_validator(mode="after")
    def _patterns_can_be_read(self) -> Self:
        text = self.target_modules if isinstance(self.target_modules, str) else ""
        for pattern in (*self.rank_pattern, *self.alpha_pattern, text):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"'{pattern}' is no regular expression ({error}); write \\. for a dot and .* "
                    "for anything"
                ) from error
        return self

    def rank_of(self, layer: str) -> int:
        """Return the rank of a layer's adapter, by its whole name."""
        return next(_matching(self.rank_pattern, layer), self.r)

    def alpha_of(self, layer: str) -> int:
        """Return the ``alpha`` of a layer's adapter, by its whole name."""
        return next(_matching(self.alpha_pattern, layer), self.alpha)

    def scaling_of(self, layer: str) -> float:
        """Return what the product of a layer's two matrices is multiplied by."""
        rank = self.rank_of(layer)
        return self.alpha_of(layer) / (math.sqrt(rank) if self.use_rslora else rank)

    def is_target(self, layer: str) -> bool:
        """Whether a linear layer other than the head gets an adapter, by its whole name."""
        if self.is_saved(layer):
            return False  # trained whole
        if self.target_modules == ALL_LINEAR:
            return True
        if isinstance(self.target_modules, str):
            return re.fullmatch(self.target_modules, layer) is not None
        return any(ends_with(layer, name) for name in self.target_modules)

    def is_saved(self, module: str) -> bool:
        """Whether a module is trained whole, by its name."""
        return any(ends_with(module, name) for name in self.modules_to_save)

    def saves(self, parameter: str) -> bool:
        """Whether a parameter is trained although it is none of an adapter."""
        return self.is_saved(parameter.rpartition(".")[0])

    def unties(self, names: Iterable[str]) -> bool:
        """Whether a model that calls its embedding and head so can keep them one parameter no more.

        Args:
            names: Of the one parameter of both.
        """
        return any(map(self.saves, names))


def ends_with(name: str, end: str) -> bool:
    """Whether a dotted name ends with whole parts."""
    return f".{name}".endswith(f".{end}")


def matches_end(pattern: str, name: str) -> bool:
    """Whether a pattern of ranks means a layer: as peft reads it."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _matching(patterns: dict[str, int], layer: str) -> Iterator[int]:
    return (value for pattern, value in patterns.items() if matches_end(pattern, layer))
