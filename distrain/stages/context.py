"""What a stage is given, and what it returns."""

from dataclasses import dataclass
from typing import Any, TypeVar

from distrain.config.lineage import MODEL_KINDS, Lineage, first_of, lineage_of, need_of
from distrain.config.recipe import (
    PrepareStage,
    Recipe,
    Stage,
)
from distrain.config.section import Section
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.products import Choice


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

    @property
    def lineage(self) -> Lineage:
        """What the stage is made of, with what it makes itself."""
        return lineage_of(self.recipe.stages, self.name)

    @property
    def first(self) -> str:
        """The stage that says which model its line begins with."""
        return first_of(self.recipe.stages, self.name)

    @property
    def source(self) -> Lineage:
        """What the stage begins with: for a training stage without what it makes itself."""
        return self.lineage if self.stage.kind not in MODEL_KINDS else self.lineage.start

    def choice_of(self, trained: str) -> Choice:
        """Return which checkpoint of a stage below is built on: as the next stage in line says."""
        line = [link.stage for link in self.source.trained]
        taker = self.recipe.stages[[*line, self.name][line.index(trained) + 1]]
        assert not isinstance(taker, PrepareStage), "it builds on a model"
        return taker.from_checkpoint

    @property
    def named_steps(self) -> frozenset[int]:
        """Steps of this stage that later ones name: their checkpoints stay."""
        stages = self.recipe.stages
        takers = (
            stage.from_checkpoint
            for name, stage in stages.items()
            if not isinstance(stage, PrepareStage)
            and need_of(stages, name, MODEL_KINDS) == self.name
        )
        return frozenset(step for step in takers if isinstance(step, int))


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


StageT = TypeVar("StageT", bound=Section)


def typed(recipe: Recipe, name: str | None, kind: type[StageT]) -> StageT:
    """Return the stage ``name``, which the recipe's checks have made sure is of that kind."""
    assert name is not None
    stage = recipe.stages[name]
    assert isinstance(stage, kind), (name, kind)
    return stage
