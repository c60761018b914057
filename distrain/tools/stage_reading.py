"""A training stage of a run as it reads its data, opened again from its records.

The stage may be running: nothing is changed, and what its records say so far is what is known.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from distrain.config.recipe import Recipe
from distrain.data.samples.feed import Feed
from distrain.data.samples.schedule import Schedule
from distrain.data.samples.source import OpenedSource
from distrain.errors import DataError, NotFoundError
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import STEP, StageData, read_json
from distrain.runs.skips import Skip, find_skip, read_skips

Record = dict[str, Any]
FIRST_SAMPLE = "data/first_sample"


class StageReading(ABC):
    """A training stage as it reads its data.

    Args:
        run: The run.
        recipe: As it was resolved.
        stage: Its name.

    Raises:
        NotFoundError: The stage has not begun.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, stage: str) -> None:
        self.run = run
        self.recipe = recipe
        self.stage = stage
        self.folder = self.run.stage(stage)
        self.record = _read_data(self.run, self.folder)
        self.steps_made = _steps_made(self.folder)

    @property
    @abstractmethod
    def sources(self) -> Mapping[str, OpenedSource]:
        """The sources as the stage reads them."""

    @property
    def where(self) -> str:
        """For messages."""
        return f"stage {self.stage} of run {self.run.root.name}"

    @property
    def is_done(self) -> bool:
        """Whether no further step will be made."""
        state = read_json(self.folder.state)
        return state is not None and state["state"] == "done"

    @cached_property
    def skips(self) -> tuple[Skip, ...]:
        """Which steps are left out of the training."""
        return read_skips(self.folder)

    def is_left_out(self, first_sample: int, num_samples: int = 1) -> bool:
        """Return whether samples of the run were read by a step that trained on none of them."""
        return find_skip(self.skips, first_sample, num_samples) is not None

    @cached_property
    def feed(self) -> Feed:
        """The feed that makes the stage's rows.

        Raises:
            DataError: Shards or settings are not those that the stage reads.
        """
        schedule = Schedule.from_json(self.record["schedule"])
        feed = Feed(self.sources, schedule, self.record["seed"])
        feed.restore(self.record, 0)  # compares the fingerprints
        return feed

    def head_of_step(self, step: int, *, is_made: bool, targets: int) -> Record:
        """Return the record with which the answer about a step, from 1, begins."""
        first, size = self.feed.schedule.samples_of(step - 1)
        return {
            "stage": self.stage,
            "step": step,
            "made": is_made,
            "left_out": self.is_left_out(first, size),
            "steps_made": self.steps_made,
            "first_sample": first,
            "num_samples": size,
            "targets": targets,
        }

    def is_made(self, step: int) -> bool:
        """Return whether a step, from 1, has been made; if so, its rows are those it recorded.

        Raises:
            NotFoundError: The stage makes no such step.
            DataError: The rows are others: nothing that is said of them would be true.
        """
        last = self.steps_made if self.is_done else self.record["max_steps"]
        # The recipe's end may have been lowered since: steps that were made can always be asked
        # for.
        if not 1 <= step <= max(last, self.steps_made):
            raise NotFoundError(
                f"step {step} of {self.where}",
                f"a stage of {last} steps, {self.steps_made} of them made",
                f"a step from 1 to {last}",
                "Correct --step.",
            )
        if step <= self.steps_made:
            self.check_recorded(step)
        return step <= self.steps_made

    def close(self) -> None:
        """End what opened sources have started."""
        return

    def check_recorded(self, step: int) -> None:
        """Make the rows of a step, from 1, again and compare them with what it recorded, if it did.

        Raises:
            DataError: They differ.
        """
        records = (record for record in _step_records(self.folder) if record[STEP] == step)
        recorded = next(records, None)
        # The end of the records may be lost in a crash: the step was made all the same.
        if recorded is None:
            return
        first, size = self.feed.schedule.samples_of(step - 1)
        digest = self.feed.rows(np.arange(first, first + size)).digest(first)
        found = (first, size, digest)
        names = (FIRST_SAMPLE, "data/num_samples", "data/batch_hash")
        wanted = tuple(recorded[name] for name in names)
        if found != wanted:
            raise DataError(
                f"step {step} of {self.where}",
                f"samples from {first} on, {size} of them, with hash {digest}",
                f"from {wanted[0]} on, {wanted[1]} with hash {wanted[2]}, as the step has recorded",
                f"Look for damage: `distrain data verify {self.run.root.name}`.",
            )


def _read_data(run: RunFolder, folder: StageFolder) -> StageData:
    record = read_json(folder.data)
    if record is None:
        raise NotFoundError(
            str(folder.data),
            f"nothing: stage {folder.name} has read no sample yet",
            "the record that a stage writes as it begins to train",
            f"Start it with `distrain resume {run.root.name}`.",
        )
    return record  # type: ignore[return-value]


def _steps_made(folder: StageFolder) -> int:
    """Return the last step that was recorded or committed."""
    state = read_json(folder.state)
    committed: int = state["step"] if state is not None else 0
    # Records first: the state names the last checkpoint, and steps were made since.
    return max((record[STEP] for record in _step_records(folder)), default=committed)


def _step_records(folder: StageFolder) -> Iterator[Record]:
    """Yield the records of steps, without those of validations."""
    return (record for record in read_records(folder.metrics) if FIRST_SAMPLE in record)
