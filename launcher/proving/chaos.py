"""Training stages of a recipe under faults, each compared with a twin that nothing disturbed."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distrain.config.recipe import DISTRIBUTED_KINDS, Recipe, TrainStage
from distrain.errors import NotFoundError, ProofError
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.planned_faults import PlannedFault, append_fault
from distrain.runs.records import STEP, is_done, is_validation
from launcher.plan import Plan, StagePlan
from launcher.proving.blows import BLOWS
from launcher.proving.draws import BY_STEP, Due, draw, plan_by_step
from launcher.proving.launches import Launch, ScratchRun
from launcher.proving.rounds import STALLED_S, StageRound, Struck
from launcher.proving.scratch import copy_run
from launcher.proving.twin import compare_stage
from launcher.text import plural, short_duration
from launcher.watch.progress import total_steps

ON_ONE_MACHINE = ("launch.backend=local", "launch.nodes=1")
RESTARTS = "launch.max_restarts=20"
"""Faults that come faster than saves are no fault of the stage; this bounds them all the same."""
EMPTY_ROUNDS = 20
"""After which a fault that finds nothing to strike is given up, and that said."""
OFF = 1 + 1e-6
"""Of a control: the learning rate is another by this factor."""


@dataclass(frozen=True)
class ChaosSettings:
    """What is asked of a stage.

    Args:
        kinds: Of faults: of ``BY_STEP`` and ``BLOWS``.
        mean_s: Between two that come by the clock.
        seed: Of all that is left to chance.
        stages: Names; empty: all stages that train.
        count: Faults that come by the clock, of each stage at least; a stage that ends before is
            begun anew. ``None``: as many as there are kinds.
        each: Faults of each kind that come by step.
        control: Train a little otherwise under faults, which must be found.
        in_steps: Let faults by the clock come only while steps are made, not while a stage starts.
    """

    kinds: tuple[str, ...]
    mean_s: float = 20.0
    seed: int = 7
    stages: tuple[str, ...] = ()
    count: int | None = None
    each: int = 1
    control: bool = False
    in_steps: bool = False

    @property
    def by_clock(self) -> tuple[str, ...]:
        """Kinds that come by the clock."""
        return tuple(kind for kind in self.kinds if kind in BLOWS)

    @property
    def wanted(self) -> int:
        """How many of these."""
        return len(self.by_clock) if self.count is None else self.count


@dataclass
class StageVerdict:
    """What came of one stage."""

    stage: str
    steps: int
    twin_s: float
    """How long the twin took, from its command to its end."""
    planned: dict[str, str] = field(default_factory=dict)
    """Faults that the twin has, too, and what followed."""
    rounds: list[list[Struck]] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    """From the command to the first step, of rounds in which no fault came before."""
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0
    folder: str = ""
    """Of what differs; empty: nothing does."""

    @property
    def faults(self) -> list[Struck]:
        """All that came by the clock."""
        return [struck for round_ in self.rounds for struck in round_]


class Chaos:
    """The stages of one recipe under faults.

    Args:
        recipe: As on the command line.
        overrides: Likewise.
        plan: Of the stages that both say, on this machine.
        settings: What is asked of them.
        scratch: A folder for all of it, empty or with the twin of an earlier call that had the
            same recipe and faults by step; rounds that are equal are removed.
        say: Shows a line to the user.
    """

    def __init__(
        self,
        recipe: str,
        overrides: Sequence[str],
        plan: Plan,
        settings: ChaosSettings,
        scratch: Path,
        say: Callable[[str], None],
    ) -> None:
        self._recipe: Recipe = plan.recipe
        self._plan = plan
        self._settings = settings
        self._scratch = scratch
        self._say = say
        overrides = (*overrides, *ON_ONE_MACHINE)
        self._twin = ScratchRun(recipe, tuple(overrides), scratch / "twin", plan.recipe.name)

    def run(self) -> list[StageVerdict]:
        """Train the twin, then each stage under faults.

        Raises:
            ProofError: The twin itself cannot be trained.
        """
        chosen = choose_stages(self._plan, self._settings.stages)
        verdicts = []
        for stage in ancestors(self._plan, chosen):
            planned = self._plan_faults(stage) if stage.name in chosen else []
            seconds = self._train_twin(stage.name, planned)
            if stage.name in chosen:
                verdicts.append(self._disturb(stage.name, planned, seconds))
        return verdicts

    def _plan_faults(self, stage: StagePlan) -> list[PlannedFault]:
        steps = total_steps(self._recipe, stage.name)
        settings = self._settings
        kinds = [kind for kind in settings.kinds if kind in BY_STEP]
        if not kinds:
            return []
        return plan_by_step(stage.name, kinds, steps, str(settings.seed), settings.each)

    def _train_twin(self, stage: str, planned: Sequence[PlannedFault]) -> float:
        """Train a stage undisturbed, but for the faults that change what is computed."""
        done = self._scratch / f"{stage}.seconds"
        if is_done(self._twin.run, stage):
            return float(done.read_text())  # of an earlier call in the same folder
        order = with_faults(self._twin, self._scratch / f"{stage}.faults", planned)
        began_s = time.monotonic()
        launch = Launch(order, [stage])
        try:
            while (code := launch.wait(1.0)) is None:
                pass
        finally:
            launch.close()
        seconds = time.monotonic() - began_s
        if code != 0:
            raise ProofError(
                f"the undisturbed twin of stage {stage}",
                f"exit code {code}:\n{order.last_lines()}",
                "a stage that is done",
                f"Look at {order.run.root}; make the recipe run without faults first.",
            )
        done.write_text(f"{seconds:.3f}")
        self._say(f"{stage}: the twin is done in {short_duration(seconds)}")
        return seconds

    def _disturb(self, stage: str, planned: Sequence[PlannedFault], twin_s: float) -> StageVerdict:
        """Let a stage run under faults until enough have come; compare each of its rounds."""
        settings = self._settings
        twin = self._twin.run.stage(stage)
        verdict = StageVerdict(stage, last_step(self._twin.run, stage), twin_s)
        began_s = time.monotonic()
        # Where a stage is shorter than that, no fault would come.
        mean_s = min(settings.mean_s, twin_s / 2)
        seed, kinds = f"{settings.seed} {stage}", settings.by_clock
        due = Due(draw(kinds, mean_s, seed) if kinds else iter(()))
        while not verdict.differences:
            order = self._scratch_of(stage, len(verdict.rounds) + 1, planned)
            stalled_s = max(STALLED_S, 10 * mean_s, 2 * twin_s)
            round_ = StageRound(order, stage, stalled_s, in_steps=settings.in_steps)
            round_.run(due, settings.wanted - len(verdict.faults))
            verdict.rounds.append(round_.struck)
            verdict.starts_s += [] if round_.first_step_s is None else [round_.first_step_s]
            found = round_.problems or compare_stage(order.run.stage(stage), twin)
            verdict.planned = tell_planned(planned, round_.by_step)
            verdict.differences = [*found, *unanswered(planned, self._twin.run)]
            if verdict.differences:
                verdict.folder = str(order.run.root)
                break
            shutil.rmtree(order.runs)
            self._say(
                f"{stage}: round {len(verdict.rounds)}, {plural(len(round_.struck), 'fault')}, "
                "equal to its twin"
            )
            if len(verdict.faults) >= settings.wanted:
                break
            last = verdict.rounds[-EMPTY_ROUNDS:]
            if due.next is not None and len(last) == EMPTY_ROUNDS and not any(last):
                verdict.differences = [
                    f"{due.next.kind} found nothing to strike in {EMPTY_ROUNDS} rounds of {stage}"
                ]
        verdict.seconds = time.monotonic() - began_s
        return verdict

    def _scratch_of(self, stage: str, number: int, planned: Sequence[PlannedFault]) -> ScratchRun:
        """Make a run folder in which all is done that the stage needs, and nothing of itself."""
        runs = self._scratch / f"{stage}-{number}"
        shutil.rmtree(runs, ignore_errors=True)  # of a call that was interrupted
        names = [other.name for other in ancestors(self._plan, [stage]) if other.name != stage]
        copy_run(self._twin.run, runs / self._twin.name, names)
        overrides = (*self._twin.overrides, RESTARTS)
        if self._settings.control:
            section = self._recipe.stages[stage]
            assert isinstance(section, TrainStage)
            rate = section.optimizer.learning_rate * OFF
            overrides = (*overrides, f"{stage}.optimizer.learning_rate={rate!r}")
        order = ScratchRun(self._twin.recipe, overrides, runs, self._twin.name)
        return with_faults(order, runs / f"{stage}.faults", planned)


def with_faults(order: ScratchRun, plan: Path, faults: Sequence[PlannedFault]) -> ScratchRun:
    """Return an order with its own plan of faults, which may grow."""
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_bytes(b"")  # there may be that of a call which was interrupted
    for fault in faults:
        append_fault(plan, fault)
    return ScratchRun(order.recipe, order.overrides, order.runs, order.name, plan)


def choose_stages(plan: Plan, names: Sequence[str]) -> list[str]:
    """Return which stages are disturbed.

    Raises:
        NotFoundError: A name is that of no stage that trains.
    """
    trained = [stage.name for stage in plan.stages if stage.kind in DISTRIBUTED_KINDS]
    for name in names or ("",):
        if (name and name not in trained) or not trained:
            raise NotFoundError(
                f"stage {name}" if name else "a stage that trains",
                "no such stage in the recipe",
                "one of: " + (", ".join(trained) or "pretrain, sft, preference"),
                "Name a stage of the recipe that trains.",
            )
    return [name for name in trained if not names or name in names]


def ancestors(plan: Plan, names: Sequence[str]) -> list[StagePlan]:
    """Return stages and all that they need, in the order of the plan."""
    needed = set(names)
    for stage in reversed(plan.stages):  # each comes after those it needs
        if stage.name in needed:
            needed |= set(stage.needs)
    return [stage for stage in plan.stages if stage.name in needed]


def tell_planned(planned: Sequence[PlannedFault], followed: dict[int, str]) -> dict[str, str]:
    """Say of each fault of a step what followed from it."""
    silent = "nothing: too few steps before it, or within what is usual"
    return {
        f"{fault.kind} at step {fault.step}": followed.get(fault.step, silent)
        for fault in sorted(planned, key=lambda fault: fault.step)
    }


def unanswered(planned: Sequence[PlannedFault], twin: RunFolder) -> list[str]:
    """Say which steps whose figures are no numbers were applied all the same, in the twin too."""
    found = []
    for fault in planned:
        if fault.kind != "nan":
            continue
        records = [
            record
            for record in read_records(twin.stage(fault.stage).metrics)
            if record[STEP] == fault.step and not is_validation(record)
        ]
        if any(record["train/applied"] for record in records):
            found.append(f"step {fault.step} has no finite loss, and was applied")
    return found


def last_step(run: RunFolder, stage: str) -> int:
    """Return the number of steps that a stage has recorded."""
    return max((int(r[STEP]) for r in read_records(run.stage(stage).metrics)), default=0)
