"""Starts a stage, watches it, and starts it again as the rule of restarts says.

The loop is the same wherever the processes are: in the launcher for a local run, in a process of
its own on the first node of several. It needs neither torch nor the recipe.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from distrain.errors import DistrainError, ExitCode, PreflightError, TrainingError
from distrain.runs.failures import after_the_logs, record_failure
from distrain.runs.folder import RunFolder
from distrain.runs.lock import wait_until_free
from distrain.runs.records import StageError, StageState, append_event, read_json, read_state
from launcher.backends.interrupt import Interruptions
from launcher.backends.restart import AttemptEnd, History, Verdict, decide, judge
from launcher.text import plural, short_duration
from launcher.watch.logs import failure_excerpt

ROOM_BYTES = 1 << 16
"""Less than any checkpoint; more than the records of an attempt."""


class StageFailedError(DistrainError):
    """A stage recorded an error that another attempt would meet again; its message is complete."""

    def __init__(self, recorded: StageError) -> None:
        super().__init__(recorded["message"], "", "", "")
        self.exit_code = _known_code(recorded["exit_code"])

    def __str__(self) -> str:
        return self.where


class Processes(Protocol):
    """What one attempt runs as, on one node or on several."""

    @property
    def end(self) -> str:
        """How they ended, in words."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether a node of theirs is gone: nothing is to be said against the stage then."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until they end or ``timeout_s`` passes; tell whether they ended."""
        ...

    def kill(self) -> None:
        """End them at once."""
        ...

    def close(self) -> None:
        """Leave none behind."""
        ...


@dataclass(frozen=True)
class Supervised:
    """A stage, and how its attempts are started and shown."""

    run: RunFolder
    name: str
    world_size: int
    max_restarts: int
    start: Callable[[Path], Processes]
    """Starts an attempt, whose output goes to that file."""
    follow: Callable[[Processes, int], None]
    """Waits for the end of an attempt, and shows how far it is."""
    say: Callable[[str], None]
    """Shows a line to the user."""
    on_restart: Callable[[AttemptEnd], None] = lambda _: None
    """Told of an attempt after which another one is started."""


class Supervisor:
    """The attempts of one stage.

    Args:
        stage: What is started.
        interruptions: The signals of this process.
        rule: Which decides about restarts; the place for another one.
        past: How attempts before those of this process ended.
    """

    def __init__(
        self,
        stage: Supervised,
        interruptions: Interruptions,
        rule: Callable[[History], Verdict] = decide,
        past: Sequence[AttemptEnd] = (),
    ) -> None:
        self.history = History(tuple(past), stage.max_restarts)
        self._stage = stage
        self._folder = stage.run.stage(stage.name)
        self._interruptions = interruptions
        self._rule = rule
        self._number = 0
        self._log_start = 0
        self._shown_reason = ""

    def run(self) -> ExitCode:
        """Start attempts until the stage is done or no other is to be started.

        Returns:
            ``DONE``, ``STOPPED`` (work is left) or ``INTERRUPTED`` (killed by a second signal).

        Raises:
            DistrainError: The stage failed for good; the message says how and what to do.
        """
        verdict = self.settle()
        ended = self.history.attempts[-1]
        if ended.ending == "done":
            return ExitCode.DONE
        if verdict == "refuse":
            raise StageFailedError(cast("StageError", read_json(self._folder.error)))
        if verdict == "wait":
            return self._rest(ended)
        self._require_room()
        self._show_failure(ended.how)
        raise self._give_up(ended.how)

    def settle(self) -> Verdict:
        """Start attempts as long as the rule wants another one; return what it says instead."""
        while True:
            ended = self._attempt()
            history = self.history.then(ended)
            self.history = replace(history, asked_to_end=self._is_asked_to_end())
            verdict = self._rule(self.history)
            if verdict != "again":
                return verdict
            self._require_room()
            self._show_failure(ended.how)
            self._announce_restart(ended)

    def _is_asked_to_end(self) -> bool:
        """Whether a signal came in, here or at another node, or the user left a wish."""
        wishes = (self._stage.run.stop, self._stage.run.yield_)
        return self._interruptions.count > 0 or any(wish.exists() for wish in wishes)

    def _attempt(self) -> AttemptEnd:
        stage, folder = self._stage, self._folder
        before = read_state(folder)
        self._number = number = (before["attempt"] if before else 0) + 1
        wait_until_free(folder.lock, stage.run.root.name)
        folder.error.unlink(missing_ok=True)
        log = folder.log(number)
        self._log_start = log.stat().st_size if log.exists() else 0
        stage.say(f"{stage.name}: starts, {plural(stage.world_size, 'process')}")
        started = time.monotonic()
        processes = stage.start(log)
        try:
            stage.follow(processes, number)
        finally:
            processes.close()
        after = read_state(folder)
        ending = judge(number, after, cast("StageError | None", read_json(folder.error)))
        if ending == "crashed" and processes.is_lost:
            ending = "lost"
        if ending == "done":
            stage.say(f"{stage.name}: done in {short_duration(time.monotonic() - started)}")
        return AttemptEnd(ending, _step(after) > _step(before), processes.end)

    def _rest(self, ended: AttemptEnd) -> ExitCode:
        name, say = self._stage.name, self._stage.say
        if ended.ending in ("yielded", "stopped"):
            say(f"{name}: stopped after step {_step(read_state(self._folder))}")
        elif self._interruptions.kill:
            return ExitCode.INTERRUPTED
        else:
            say(f"{name}: {ended.how} while it was asked to save and stop")
        return ExitCode.STOPPED

    def _require_room(self) -> None:
        try:
            check_room(self._folder.path)
        except PreflightError as error:
            with suppress(OSError):  # its record is small, and may find room all the same
                record_failure(self._stage.run, self._stage.name, error, self._number)
            raise

    def _show_failure(self, how: str) -> None:
        log = self._folder.log(self._number)
        text = log.read_bytes()[self._log_start :].decode(errors="replace") if log.exists() else ""
        excerpt = failure_excerpt(text)
        reason = excerpt.rpartition("\n")[2]
        if excerpt and reason == self._shown_reason:
            shown = f", like the one before it: {reason}"
        else:
            shown = f"; the last lines of {log}:\n{excerpt}" if excerpt else ""
        self._shown_reason = reason
        self._stage.say(f"{self._stage.name}: attempt {self._number} failed, {how}{shown}")

    def _announce_restart(self, ended: AttemptEnd) -> None:
        name, attempt = self._stage.name, self._number + 1
        self._stage.on_restart(ended)
        append_event(self._stage.run.events, "restarted", name, attempt=attempt, reason=ended.how)
        step = _step(read_state(self._folder))
        self._stage.say(f"{name}: starts again from step {step} (attempt {attempt})")

    def _give_up(self, how: str) -> TrainingError:
        name, run, in_vain = self._stage.name, self._stage.run, self.history.in_vain
        error = TrainingError(
            f"stage {name}",
            f"{how} in attempt {self._number}, {plural(in_vain, 'attempt')} in a row without a new "
            f"committed step (launch.max_restarts={self._stage.max_restarts})",
            "a finished stage",
            after_the_logs(run.root.name),
        )
        record_failure(run, name, error, self._number)
        return error


def wait_for_end(
    processes: Processes, interruptions: Interruptions, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Wait for the end of an attempt that nobody watches; a second signal kills it."""
    while not processes.wait(1.0):
        meanwhile()
        if interruptions.kill:
            processes.kill()


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


def _step(state: StageState | None) -> int:
    return state["step"] if state else 0


def _known_code(code: int) -> ExitCode:
    return ExitCode(code) if code in list(ExitCode) else ExitCode.TRAINING
