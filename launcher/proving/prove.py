"""``distrain prove``: a stage of a user's own run, killed and resumed beside a twin that was not.

All of it happens in scratch copies; the run itself is read and nothing else.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distrain.config.recipe import Recipe
from distrain.runs.comparison import ComputedOn, compare_how
from distrain.runs.folder import SCRATCH_MARK, RunFolder, StageFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import STEP, TRAIN, is_validation, read_json, read_state
from launcher.proving.controls import CONTROLS, break_copy, content_of, extra_of
from launcher.proving.scratch import checkpoints_of, copy_run, make_scratch, return_to
from launcher.proving.stretch import (
    Kill,
    Stretch,
    Trained,
    certificates,
    draw_kills,
    train_stretch,
)
from launcher.proving.twin import Exactness, compare_records, compare_skips

COUNTED = ("data/", "train/tokens_seen", "train/learning_rate", "train/applied")
"""Figures of a step that no number of ranks changes."""
TWIN = "twin"


@dataclass(frozen=True)
class Ordered:
    """What is to be proved.

    Args:
        run: Where nothing runs now.
        recipe: Its resolved one.
        stretch: Of which stage.
        own_ranks: With which the run was trained.
        ranks: To be tried.
        kills: For each of them.
        seed: Of the kills.
    """

    run: RunFolder
    recipe: Recipe
    stretch: Stretch
    own_ranks: int
    ranks: tuple[int, ...]
    kills: int
    seed: int


@dataclass
class Case:
    """One line of the table.

    Args:
        name: What was done.
        ranks: Processes.
        compared: How, and with what.
        struck: What was killed.
        differences: What was found; of a control, how it was noticed.
        is_control: It must be found otherwise.
    """

    name: str
    ranks: int
    compared: str
    struck: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    is_control: bool = False

    @property
    def holds(self) -> bool:
        """Whether it came out as it had to."""
        return bool(self.differences) == self.is_control

    def to_json(self) -> dict[str, Any]:
        """Form of ``--json``."""
        return {**vars(self), "holds": self.holds}


class Proof:
    """Makes the cases one after the other.

    Args:
        ordered: What is to be proved.
        scratch: An empty folder for the copies.
        say: Takes a line for whoever waits.
    """

    def __init__(self, ordered: Ordered, scratch: Path, say: Callable[[str], None]) -> None:
        self.ordered = ordered
        self.cases: list[Case] = []
        self._scratch = scratch
        self._say = say
        (scratch / SCRATCH_MARK).touch()
        state = read_state(ordered.run.stage(ordered.stretch.stage))
        self._attempts = state["attempt"] if state else 0

    def make(self) -> list[Case]:
        """Make all cases; without a twin there is nothing to compare the others with."""
        ordered = self.ordered
        twin, case = self._train_twin()
        self._add(case)
        if not case.holds:
            return self.cases
        for ranks in ordered.ranks:
            self._add(self._train_killed(ranks, twin))
        for name in CONTROLS:
            self._add(self._train_control(name, twin))
        return self.cases

    def _add(self, case: Case) -> None:
        self.cases.append(case)
        self._say(f"{case.name}: {'; '.join([word_of(case), *case.differences[:1]])}")

    def _copy(self, name: str) -> RunFolder:
        ordered = self.ordered
        stages = lineage_of(ordered.recipe, ordered.stretch.stage)
        copy = copy_run(ordered.run, self._scratch / name, stages)
        return_to(copy.stage(ordered.stretch.stage), ordered.stretch.start)
        return copy

    def _train(self, copy: RunFolder, ranks: int, kills: Sequence[Kill] = ()) -> Trained:
        stretch = self.ordered.stretch
        killed = f", with {len(kills)} kills" if kills else ""
        self._say(
            f"{copy.root.name}: steps {stretch.start + 1} to {stretch.end} on {ranks} ranks{killed}"
        )
        return train_stretch(copy, stretch, ranks, kills)

    def _train_twin(self) -> tuple[RunFolder, Case]:
        copy, ranks = self._copy(TWIN), self.ordered.own_ranks
        trained = self._train(copy, ranks)
        found, how = self._resumes(copy)
        failure = [trained.failure] if trained.failure is not None else []
        again = how[0] if how else "state only"
        case = Case("resumed", ranks, f"the run itself: {again}", [], failure + found)
        return copy, case

    def _train_killed(self, ranks: int, twin: RunFolder) -> Case:
        copy, ordered = self._copy(f"killed-{ranks}"), self.ordered
        kills = draw_kills(ordered.stretch, ordered.kills, f"{ordered.seed} {ranks}")
        trained = self._train(copy, ranks, kills)
        name = "killed" if ranks == ordered.own_ranks else "killed, other ranks"
        case = Case(name, ranks, "", trained.struck)
        if trained.failure is not None:
            case.compared, case.differences = "not", [trained.failure]
            return case
        stage = ordered.stretch.stage
        compare = compare_exactly if ranks == ordered.own_ranks else compare_ranks
        case.compared, case.differences = compare(copy.stage(stage), twin.stage(stage), ordered)
        case.differences += self._resumes(copy)[0]
        return case

    def _train_control(self, name: str, twin: RunFolder) -> Case:
        ordered = self.ordered
        copy, ranks = self._copy(f"control-{name}"), ordered.own_ranks
        break_copy(copy, ordered.stretch, name, twin)
        trained = self._train(copy, ranks)
        case = Case(f"control: {CONTROLS[name]}", ranks, "the twin", is_control=True)
        if trained.failure is not None:
            case.differences = [f"refused: {trained.failure}"]
            return case
        stage = ordered.stretch.stage
        # Not the file of skips itself: that it differs is how the control was made.
        found = self._resumes(copy)[0]
        differs = compare_tensors_and_records(copy.stage(stage), twin.stage(stage), ordered)
        case.differences = [*found, *differs]
        return case

    def _resumes(self, copy: RunFolder) -> tuple[list[str], list[str]]:
        """Return what the certificates of a copy's resumes found, and how they compared."""
        told = list(certificates(copy, self.ordered.stretch.stage, self._attempts))
        return [text for _, found in told for text in found], [how for how, _ in told]


def prove(ordered: Ordered, say: Callable[[str], None], keep: Path | None = None) -> list[Case]:
    """Prove it in scratch copies, which are removed at the end.

    Args:
        ordered: What.
        say: Takes a line for whoever waits.
        keep: Folder for the copies, which stay; made here.
    """
    if keep is not None:
        keep.mkdir(parents=True)
        return Proof(ordered, keep, say).make()
    scratch = make_scratch(ordered.run.root.parent, "prove")
    try:
        return Proof(ordered, scratch, say).make()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def lineage_of(recipe: Recipe, stage: str) -> list[str]:
    """Return a stage and all that it needs, directly or not."""
    found = [stage]
    for name in found:
        found += [needed for needed in recipe.stages[name].needs if needed not in found]
    return found


def compare_exactly(
    ours: StageFolder, twin: StageFolder, ordered: Ordered
) -> tuple[str, list[str]]:
    """Compare with a twin of as many ranks: bit by bit, to the digests of the last checkpoint."""
    differences = [
        *compare_tensors_and_records(ours, twin, ordered),
        *compare_skips(ours, twin),
    ]
    return "the twin: bit by bit", differences


def compare_tensors_and_records(
    ours: StageFolder, twin: StageFolder, ordered: Ordered
) -> list[str]:
    """Compare records step by step, and what was saved after the last one."""
    end = ordered.stretch.end
    exactness = Exactness(first_step=ordered.stretch.start + 1, last_step=end)
    mine, its = (_checkpoint(folder, end) for folder in (ours, twin))
    found = compare_records(ours, twin, exactness)
    if content_of(mine) != content_of(its):
        found.append(f"tensors after step {end}: {content_of(mine)}, of the twin {content_of(its)}")
    here, there = extra_of(mine), extra_of(its)
    found += [
        f"saved after step {end}: {name} is {here.get(name)}, of the twin {there.get(name)}"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    return found


def compare_ranks(ours: StageFolder, twin: StageFolder, ordered: Ordered) -> tuple[str, list[str]]:
    """Compare with a twin of another number of ranks: samples exactly, losses as near as may be."""
    stretch = ordered.stretch
    now, before = (read_json(folder.data) or {} for folder in (ours, twin))
    comparison = compare_how(ComputedOn(**now["computed_on"]), before.get("computed_on"))
    mine, its = (_steps(folder, stretch) for folder in (ours, twin))
    found = [f"step {step} has no record" for step in sorted(its.keys() - mine.keys())]
    largest = 0.0
    for step in sorted(mine.keys() & its.keys()):
        is_near = step <= stretch.start + comparison.steps
        for name, value in mine[step].items():
            other = its[step].get(name)
            is_counted = name.startswith(COUNTED)
            if not is_counted:
                largest = max(largest, _difference(value, other))
            differs = value != other if is_counted else not comparison.is_close(name, value, other)
            if differs and (is_counted or is_near):
                found.append(f"step {step}: {name} is {value!r}, of the twin {other!r}")
    first = f"losses of {comparison.steps} steps {comparison.how}"
    if comparison.tolerance == math.inf:
        first = "no losses, for each rank has dropout of its own"
    words = f"the twin: samples exactly, {first} (largest difference in all steps: {largest:.1g})"
    return words, [*found, *_ledgers(ours, twin, stretch.end), *compare_skips(ours, twin)]


def _ledgers(ours: StageFolder, twin: StageFolder, end: int) -> list[str]:
    mine, its = (extra_of(_checkpoint(folder, end)).get("ledger") for folder in (ours, twin))
    return [] if mine == its else [f"ledger of samples: {mine}, of the twin {its}"]


def _steps(folder: StageFolder, stretch: Stretch) -> dict[int, dict[str, Any]]:
    """Return the figures of the stretch's steps that do not tell of time or machine."""
    return {
        int(record[STEP]): {
            name: value for name, value in record.items() if name.startswith(("data/", TRAIN))
        }
        for record in read_records(folder.metrics)
        if not is_validation(record) and stretch.start < int(record[STEP]) <= stretch.end
    }


def _difference(ours: object, other: object) -> float:
    if not isinstance(ours, float) or not isinstance(other, float):
        return 0.0
    return abs(ours - other) / max(abs(ours), abs(other), 1e-30)


def _checkpoint(folder: StageFolder, step: int) -> Path:
    return next(path for number, path in checkpoints_of(folder) if number == step)


def word_of(case: Case) -> str:
    """Say in a word or two how a case came out."""
    if case.is_control:
        return "noticed" if case.holds else "NOT NOTICED"
    return "equal" if case.holds else "DIFFERS"
