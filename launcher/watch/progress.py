"""Follows a stage while it runs: what is new in its records, in the order it happened.

Reads plain files only, so the stage never waits for whoever watches it.
"""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from distrain.config.layout import count_steps
from distrain.config.recipe import Recipe, TrainStage
from distrain.runs.folder import RunFolder

STEP = "train/global_step"


class Display(Protocol):
    """Shows one attempt of one stage."""

    def step(self, record: dict[str, Any]) -> None:
        """Show an optimizer step."""

    def validation(self, record: dict[str, Any]) -> None:
        """Show a validation."""

    def event(self, record: dict[str, Any]) -> None:
        """Show an event."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class RecordTail:
    """New whole records of a growing JSONL file.

    A resumed stage replaces its file by one that holds each step once; such a file is read again
    from its beginning, and the caller tells old records by their attempt.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_id: tuple[int, int] | None = None
        self._offset = 0

    def poll(self) -> list[dict[str, Any]]:
        """Return the records since the last call; a line still being written is left for later."""
        try:
            with self._path.open("rb") as file:
                return self._read(file)
        except FileNotFoundError:
            return []

    def _read(self, file: BinaryIO) -> list[dict[str, Any]]:
        status = os.fstat(file.fileno())
        file_id = (status.st_dev, status.st_ino)
        if file_id != self._file_id or status.st_size < self._offset:
            self._file_id, self._offset = file_id, 0
        file.seek(self._offset)
        data: bytes = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class StageFollower:
    """Hands the records of one attempt to a display.

    Args:
        run: Folder of the run.
        stage: Name of the stage.
        attempt: Records of earlier attempts are passed over.
        display: Where they are shown.
    """

    def __init__(self, run: RunFolder, stage: str, attempt: int, display: Display) -> None:
        self._metrics = RecordTail(run.stage(stage).metrics)
        self._events = RecordTail(run.events)
        self._stage = stage
        self._attempt = attempt
        self._display = display

    def poll(self) -> None:
        """Show what is new."""
        records = [r for r in self._metrics.poll() if r.get("attempt") == self._attempt]
        records += [
            r
            for r in self._events.poll()
            if r.get("stage") == self._stage and r.get("attempt") == self._attempt
        ]
        for record in sorted(records, key=lambda r: str(r.get("time", ""))):
            if "event" in record:
                self._display.event(record)
            elif "eval/loss" in record:
                self._display.validation(record)
            else:
                self._display.step(record)


def total_steps(recipe: Recipe, stage: str) -> int | None:
    """Return the optimizer steps of a stage; ``None`` where only the data can tell."""
    section = recipe.stages[stage]
    if not isinstance(section, TrainStage):
        return None
    return count_steps(section.training)
