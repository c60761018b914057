"""What a stage is given, what it returns, and where the stages it builds on lie."""

from dataclasses import dataclass
from typing import Any, TypeVar

from distrain.config.recipe import (
    EvaluateStage,
    ExportStage,
    PrepareStage,
    PretrainStage,
    Recipe,
    SftStage,
    Stage,
)
from distrain.runs.folder import RunFolder, StageFolder


@dataclass(frozen=True)
class StageContext:
    """One stage of one run.

    Args:
        attempt: Starts of this stage so far, this one included; ``None`` on all ranks but 0, which
            alone counts.
    """

    recipe: Recipe
    run: RunFolder
    name: str
    attempt: int | None
    again: bool = False
    """Of ``evaluate``: use the test split knowingly once more."""

    @property
    def stage(self) -> Stage:
        """The stage's part of the recipe."""
        return self.recipe.stages[self.name]

    @property
    def folder(self) -> StageFolder:
        """Where the stage writes."""
        return self.run.stage(self.name)


@dataclass(frozen=True)
class Outcome:
    """How a stage ended.

    Args:
        result: Final figures, for ``result.json``; ``None`` when work is left.
        step: Last committed step; 0 for stages without steps.
        requeue: Work is left and nobody asked to stay ended.
    """

    result: dict[str, Any] | None
    step: int = 0
    requeue: bool = False


@dataclass(frozen=True)
class Lineage:
    """The stages that one stage builds on, by name.

    Args:
        prepare: Supplies tokenizer, shards and pairs; ``None`` for a user's own model and pairs.
        pretrain: Supplies the base weights; ``None`` for a user's Hugging Face folder.
        sft: Supplies the adapter; ``None`` if the line has no fine-tuning.
    """

    prepare: str | None = None
    pretrain: str | None = None
    sft: str | None = None


def lineage_of(recipe: Recipe, name: str) -> Lineage:
    """Follow ``needs`` from the stage ``name`` to the raw text. Includes the stage itself."""
    found: dict[str, str] = {}
    pending = [name]
    while pending:
        current = pending.pop()
        stage = recipe.stages[current]
        found.setdefault(stage.kind, current)
        pending.extend(stage.needs)
    return Lineage(found.get("prepare"), found.get("pretrain"), found.get("sft"))


StageT = TypeVar("StageT", PrepareStage, PretrainStage, SftStage, EvaluateStage, ExportStage)


def typed(recipe: Recipe, name: str | None, kind: type[StageT]) -> StageT:
    """Return the stage ``name``, which the recipe's checks have made sure is of that kind."""
    assert name is not None
    stage = recipe.stages[name]
    assert isinstance(stage, kind), (name, kind)
    return stage
