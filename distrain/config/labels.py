"""Section of layer 2: what labelled documents have to be like."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from distrain.config.section import Section, check_limits

Fraction = Annotated[float, Field(ge=0, le=1)]


class LabelsConfig(Section):
    """Limits for documents with labels; ``null`` reports and never refuses."""

    max_missing_fraction: Fraction | None = 0.0
    """Documents without a label, of all."""
    max_conflict_fraction: Fraction | None = 0.0
    """Documents whose text also has another label, of those with a label."""
    min_label_fraction: Fraction | None = None
    """Documents of the rarest label, of those with a label."""
    max_label_fraction: Fraction | None = None
    """Documents of the most frequent label, of those with a label."""

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Self:
        check_limits(self, "min_label_fraction", "max_label_fraction")
        return self


class PairChecksConfig(Section):
    """Limits for instruction pairs; ``null`` reports and never refuses."""

    max_empty_fraction: Fraction | None = 0.0
    """Pairs with a blank prompt or a blank answer, of all."""
    max_conflict_fraction: Fraction | None = None
    """Pairs whose prompt has other answers too, of all; several good answers are common."""
