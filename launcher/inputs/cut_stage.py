"""A stage that cuts its model over axes of ranks, as the checks of its recipe see it."""

from dataclasses import dataclass

from distrain.config.layout import AXIS_SETTINGS
from distrain.config.models import ModelConfig
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import TrainStage


@dataclass(frozen=True)
class CutStage:
    """A stage that cuts its model.

    Args:
        degrees: Of the axes with several ranks, by axis.
        model: That it trains; ``None`` if its folder cannot be read here.
        vocab_size: Of its tokenizer, likewise.
    """

    name: str
    stage: TrainStage
    degrees: dict[str, int]
    model: ModelConfig | None
    vocab_size: int | None

    def finding(self, setting: str, found: str, expected: str, remedy: str) -> Finding:
        """Say what does not fit."""
        message = f"{setting}: found {found}; expected {expected}; {remedy}"
        return Finding(self.name, tuple(setting.split(".")), message)

    def first_of(self, axes: tuple[str, ...]) -> str | None:
        """Return the first of some axes that is there, as ``tensor_parallel 2``."""
        there = next((axis for axis in axes if axis in self.degrees), None)
        return None if there is None else f"{AXIS_SETTINGS[there]} {self.degrees[there]}"

    def size(self, name: str) -> int | None:
        """Return a size of the model by its common name; ``None`` if nothing here says it."""
        return None if self.model is None else self.model.size_of(name)
