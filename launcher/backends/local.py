"""Runs stages here, one after the other, as child processes; starts a failed one again.

A stage has ended well when its ``state.json`` says so; exit codes are only reported.
"""

import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from distrain.errors import DistrainError, ExitCode, PreflightError, TrainingError
from distrain.runs.failures import after_the_logs, record_failure
from distrain.runs.lock import wait_until_free
from distrain.runs.products import check_sources
from distrain.runs.records import (
    StageError,
    StageState,
    append_event,
    is_done,
    read_json,
    read_state,
)
from launcher.backends.interrupt import Interruptions
from launcher.backends.processes import Child
from launcher.plan import Plan, StagePlan, local_rendezvous, stage_argv, stage_env
from launcher.run_files import name_of
from launcher.text import plural, short_duration
from launcher.watch.logs import failure_excerpt
from launcher.watch.progress import Display, Extent, StageFollower, extent_of

POLL_S = 0.5
"""Between two looks at the records of a running stage; its end is noticed at once."""

ROOM_BYTES = 1 << 16
"""Less than any checkpoint; more than the records of an attempt."""

Ending = Literal["done", "stopped", "refused", "crashed"]


@dataclass(frozen=True)
class Surroundings:
    """What a local run is given besides its plan."""

    say: Callable[[str], None]
    """Shows a line to the user, on stderr."""
    make_display: Callable[[Extent], Display]
    """Makes the display of one attempt."""
    python: str = sys.executable
    arguments: tuple[str, ...] = ()
    """Further arguments of the runtime's ``stage`` command; a stage that is done runs again."""


class StageFailedError(DistrainError):
    """A stage recorded an error that another attempt would meet again; its message is complete."""

    def __init__(self, recorded: StageError) -> None:
        super().__init__(recorded["message"], "", "", "")
        self.exit_code = _known_code(recorded["exit_code"])

    def __str__(self) -> str:
        return self.where


def run_stages(plan: Plan, stages: Sequence[StagePlan], around: Surroundings) -> ExitCode:
    """Run ``stages`` in order, leaving out those that are done.

    The caller holds the lock of the run. Signals become wishes meanwhile (``Interruptions``).

    Returns:
        ``DONE``, ``STOPPED`` (work is left), or ``INTERRUPTED`` (killed by a second signal).

    Raises:
        DistrainError: A stage failed for good; the message says how and what to do.
    """
    check_needs(plan, stages)
    with Interruptions(plan.run) as interruptions:
        for stage in stages:
            if is_done(plan.run, stage.name) and not around.arguments:
                check_sources(plan.run, stage.name)
                around.say(f"{stage.name}: done before, skipped")
                append_event(plan.run.events, "skipped", stage.name)
                continue
            if interruptions.count:
                return ExitCode.STOPPED
            code = _StageRunner(plan, stage, around, interruptions).run()
            if code is not ExitCode.DONE:
                return code
    return ExitCode.DONE


def check_needs(plan: Plan, stages: Sequence[StagePlan]) -> None:
    """Refuse a selection of stages that leaves out one that is needed and not done.

    Raises:
        PreflightError: Names the stage that is missing.
    """
    selected = {stage.name for stage in stages}
    for stage in stages:
        for need in stage.needs:
            if need not in selected and not is_done(plan.run, need):
                raise PreflightError(
                    f"stage {stage.name}",
                    f"that it needs stage {need}, which is not done",
                    "every needed stage done or selected",
                    f"Run it first: `distrain resume {name_of(plan.run)} --only {need}`.",
                )


def judge(attempt: int, state: StageState | None, error: StageError | None) -> Ending:
    """Say how an attempt ended, from what it left behind.

    A state of an earlier attempt says nothing: the attempt died before it could write its own.
    """
    if error is not None:
        return "refused"
    if state is None or state["attempt"] < attempt or state["state"] not in ("done", "stopped"):
        return "crashed"
    return "done" if state["state"] == "done" else "stopped"


def check_room(folder: Path) -> None:
    """Refuse to go on where a stage could not even record that the disk is full.

    Raises:
        PreflightError: Nothing can be written to ``folder``.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".room.") as file:
            file.write(bytes(ROOM_BYTES))
            file.flush()
    except OSError as error:
        raise PreflightError(
            str(folder),
            f"no room to write to ({error.strerror})",
            "room for the stage's files",
            "Free space or set DISTRAIN_RUNS_DIR to another disk, then run the same command again: "
            "it goes on from the last checkpoint.",
        ) from error


class _StageRunner:
    """The attempts of one stage."""

    def __init__(
        self, plan: Plan, stage: StagePlan, around: Surroundings, interruptions: Interruptions
    ) -> None:
        self.plan = plan
        self.stage = stage
        self.around = around
        self.interruptions = interruptions
        self.folder = plan.run.stage(stage.name)
        self.log_start = 0
        self.shown_reason = ""

    def run(self) -> ExitCode:
        max_restarts = self.plan.recipe.launch.max_restarts
        in_vain = 0  # attempts in a row that committed no new step
        while True:
            before = read_state(self.folder)
            attempt = (before["attempt"] if before else 0) + 1
            step = before["step"] if before else 0
            ending, how = self._attempt(attempt)
            after = read_state(self.folder)
            if ending == "done":
                return ExitCode.DONE
            if ending == "stopped":
                self.around.say(f"{self.stage.name}: stopped after step {_step(after)}")
                return ExitCode.STOPPED
            if ending == "refused":
                raise StageFailedError(cast("StageError", read_json(self.folder.error)))
            if self.interruptions.kill:
                return ExitCode.INTERRUPTED
            if self.interruptions.count:
                self.around.say(f"{self.stage.name}: {how} while it was asked to save and stop")
                return ExitCode.STOPPED
            self._require_room(attempt)
            in_vain = 0 if _step(after) > step else in_vain + 1
            self._show_failure(attempt, how)
            if in_vain > max_restarts:
                self._give_up(attempt, how, in_vain)
            self._announce_restart(attempt + 1, how)

    def _attempt(self, attempt: int) -> tuple[Ending, str]:
        stage, run = self.stage, self.plan.run
        wait_until_free(self.folder.lock, run.root.name)
        self.folder.error.unlink(missing_ok=True)
        log = self.folder.log(attempt)
        self.log_start = log.stat().st_size if log.exists() else 0
        rendezvous = local_rendezvous(f"{run.root.name}-{stage.name}-{secrets.token_hex(4)}")
        argv = stage_argv(stage, run, python=self.around.python, rendezvous=rendezvous)
        self.around.say(f"{stage.name}: starts, {plural(stage.world_size, 'process')}")
        started = time.monotonic()
        child = Child([*argv, *self.around.arguments], os.environ | stage_env(stage), log)
        try:
            self._follow(child, attempt)
        finally:
            child.close()
        ending = judge(
            attempt,
            read_state(self.folder),
            cast("StageError | None", read_json(self.folder.error)),
        )
        if ending == "done":
            took = short_duration(time.monotonic() - started)
            self.around.say(f"{stage.name}: done in {took}")
        return ending, child.end

    def _follow(self, child: Child, attempt: int) -> None:
        extent = extent_of(self.plan.run, self.plan.recipe, self.stage.name)
        display = self.around.make_display(extent)
        follower = StageFollower(self.plan.run, self.stage.name, attempt, display)
        asked = False
        try:
            while not child.wait(POLL_S):
                follower.poll()
                if self.interruptions.count and not asked:
                    asked = True
                    events = self.plan.run.events
                    append_event(events, "yield_requested", self.stage.name, attempt=attempt)
                if self.interruptions.kill:
                    child.kill()
            follower.poll()
        finally:
            display.close()

    def _require_room(self, attempt: int) -> None:
        try:
            check_room(self.folder.path)
        except PreflightError as error:
            with suppress(OSError):  # its record is small, and may find room all the same
                record_failure(self.plan.run, self.stage.name, error, attempt)
            raise

    def _show_failure(self, attempt: int, how: str) -> None:
        log = self.folder.log(attempt)
        text = log.read_bytes()[self.log_start :].decode(errors="replace") if log.exists() else ""
        excerpt = failure_excerpt(text)
        reason = excerpt.rpartition("\n")[2]
        if excerpt and reason == self.shown_reason:
            shown = f", like the one before it: {reason}"
        else:
            shown = f"; the last lines of {log}:\n{excerpt}" if excerpt else ""
        self.shown_reason = reason
        self.around.say(f"{self.stage.name}: attempt {attempt} failed, {how}{shown}")

    def _announce_restart(self, attempt: int, how: str) -> None:
        append_event(
            self.plan.run.events, "restarted", self.stage.name, attempt=attempt, reason=how
        )
        step = _step(read_state(self.folder))
        self.around.say(f"{self.stage.name}: starts again from step {step} (attempt {attempt})")

    def _give_up(self, attempt: int, how: str, in_vain: int) -> None:
        name, run = self.stage.name, self.plan.run.root.name
        error = TrainingError(
            f"stage {name}",
            f"{how} in attempt {attempt}, {plural(in_vain, 'attempt')} in a row without a new "
            f"committed step (launch.max_restarts={self.plan.recipe.launch.max_restarts})",
            "a finished stage",
            after_the_logs(run),
        )
        record_failure(self.plan.run, name, error, attempt)
        raise error


def _step(state: StageState | None) -> int:
    return state["step"] if state else 0


def _known_code(code: int) -> ExitCode:
    return ExitCode(code) if code in list(ExitCode) else ExitCode.TRAINING
