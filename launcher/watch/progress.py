"""Follows a stage while it runs: what is new in its records, in the order it happened.

Reads plain files only, so the stage never waits for whoever watches it.
"""

import time
from dataclasses import dataclass
from typing import Any, Protocol

from distrain.config.layout import count_steps
from distrain.config.recipe import Recipe, TrainStage
from distrain.config.tasks import TaskForm, task_form
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import RecordTail
from distrain.runs.phases import prepare_progress
from distrain.runs.records import is_validation, read_json, read_state

NOTE_S = 2.0
"""Between two looks at the ranges of a prepare stage, which may be thousands of files."""


@dataclass(frozen=True)
class Extent:
    """What is known of an attempt before it begins."""

    stage: str
    step: int = 0
    """Steps that are committed: it goes on there."""
    total_steps: int | None = None
    """``None`` where only the data can tell, or there are none."""
    logging_steps: int = 1
    has_steps: bool = True
    task: TaskForm = task_form(None)  # noqa: RUF009  (frozen, like a number)


def extent_of(run: RunFolder, recipe: Recipe, stage: str) -> Extent:
    """Look up where a stage begins, and how long it is."""
    section, state = recipe.stages[stage], read_state(run.stage(stage))
    if not isinstance(section, TrainStage):
        return Extent(stage, has_steps=False)
    total = total_steps(recipe, stage, run)
    return Extent(
        stage,
        state["step"] if state else 0,
        total,
        section.logging.logging_steps,
        task=task_form(section.training.task),
    )


class Display(Protocol):
    """Shows one attempt of one stage."""

    def length(self, total_steps: int) -> None:
        """Take the number of steps into account, which the data have told."""

    def note(self, text: str) -> None:
        """Show how far a stage without steps is."""

    def step(self, record: dict[str, Any]) -> None:
        """Show an optimizer step."""

    def validation(self, record: dict[str, Any]) -> None:
        """Show a validation."""

    def event(self, record: dict[str, Any]) -> None:
        """Show an event."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class StageFollower:
    """Hands the records of one attempt to a display.

    Args:
        run: Folder of the run.
        stage: Name of the stage.
        attempt: Records of earlier attempts are passed over.
        display: Where they are shown.
    """

    def __init__(self, run: RunFolder, stage: str, attempt: int, display: Display) -> None:
        self._folder = run.stage(stage)
        self._metrics = RecordTail(self._folder.metrics)
        self._events = RecordTail(run.events)
        self._stage = stage
        self._attempt = attempt
        self._display = display
        self._is_planned = False
        self._shown_until = ""
        self._noted_s = 0.0
        self._ranges = 0

    def poll(self) -> None:
        """Show what is new."""
        self._show_length()
        self._show_note()
        records = self._new_metrics()
        records += [
            r
            for r in self._events.poll()
            if r.get("stage") == self._stage and r.get("attempt") == self._attempt
        ]
        for record in sorted(records, key=lambda r: str(r.get("time", ""))):
            if "event" in record:
                self._display.event(record)
            elif is_validation(record):
                self._display.validation(record)
            else:
                self._display.step(record)

    def _new_metrics(self) -> list[dict[str, Any]]:
        """Return what this attempt has recorded since the last call.

        A stage that rewinds writes its file anew, with what was shown before; the order of writing
        is that of time, and the last record shown is told by its own.
        """
        records = [r for r in self._metrics.poll() if r.get("attempt") == self._attempt]
        times = [str(record.get("time", "")) for record in records]
        if self._metrics.is_anew:
            records = [
                r for r, time in zip(records, times, strict=True) if time > self._shown_until
            ]
        self._shown_until = max([self._shown_until, *times])
        return records

    def _show_length(self) -> None:
        plan = None if self._is_planned else read_json(self._folder.data)
        if plan is not None and plan.get("attempt") == self._attempt:
            self._is_planned = True
            self._display.length(plan["max_steps"])

    def _show_note(self) -> None:
        if time.monotonic() - self._noted_s < NOTE_S:
            return
        self._noted_s = time.monotonic()
        progress = prepare_progress(self._folder)
        done = 0 if progress is None else progress.cleaned + progress.encoded
        if progress is not None and done >= self._ranges:  # at its end, a stage removes them
            self._ranges = done
            self._display.note(str(progress))


def total_steps(recipe: Recipe, stage: str, run: RunFolder | None = None) -> int | None:
    """Return the optimizer steps of a stage; ``None`` where only the data can tell.

    Args:
        recipe: Of the run.
        stage: Name of the stage.
        run: Where a stage that has begun wrote down how many it counted.
    """
    section = recipe.stages[stage]
    if not isinstance(section, TrainStage):
        return None
    steps = count_steps(section.training)
    if steps is None and run is not None:
        plan = read_json(run.stage(stage).data)
        steps = None if plan is None else int(plan["max_steps"])
    return steps
