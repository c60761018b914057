"""The job that ends a stage: its supervisor's side of one start."""

import argparse
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import cast

from distrain.errors import DistrainError, ExitCode, PreflightError, TrainingError
from distrain.runs.failures import YIELDED, after_the_logs, record_failure
from distrain.runs.folder import STEP_PREFIX, NodeFiles
from distrain.runs.records import (
    StageError,
    append_event,
    is_done,
    read_json,
    read_state,
    utc_now,
)
from distrain.runs.strikes import SETTINGS, StrikeRules
from launcher.backends.beats import LOOK_S, Pulse, Watch
from launcher.backends.restart import LATE_S, AttemptEnd, Ending, Verdict, decide, judge
from launcher.backends.slurm.batch import POLL_S, START, BatchJob, address_of, ask_slurm
from launcher.backends.slurm.batch_process import BATCH_BEAT_S
from launcher.backends.slurm.own_nodes import OwnNodes
from launcher.backends.supervise import check_room
from launcher.backends.terms import Term

MEMBERS_S = 300.0
"""How long all nodes of a job with spares are silent until srun, which waits for them, is ended."""


class StageBatch(BatchJob):
    """A job that ends a stage."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        self.patience_s: int = arguments.patience
        self.again: str = arguments.resume
        self.rules = StrikeRules(arguments.strikes, arguments.strikes_folder)
        self.checks_nodes: bool = arguments.node_checks
        self.has_spares: bool = arguments.spares
        self.own_nodes = OwnNodes(self, self.rules)
        self.deadline = float("inf")
        self.step = 0
        self.are_nodes_gone = False

    def supervise(self) -> ExitCode:
        """Run the stage once and say what becomes of the job."""
        self.begin()
        if self.restart > 0 and self.folder.error.exists():
            # It ended before it could say so, or was requeued by hand.
            return self._refuse()
        for old in (self.run.yield_, self.folder.error):
            old.unlink(missing_ok=True)
        if self.told:  # meanwhile: that wish is not an old one
            self.run.yield_.touch()
        self.step = self._committed()
        if self.restart > 0:
            self._record_restart(self.history.attempts[-1].how)
        self.say(f"stage {self.stage}, job {self.id}, restart {self.restart}, nodes {self.nodes}")
        code = self._not_to_begin()
        if code is not None:
            return code
        ended = self._attempt()
        if ended.ending == "done":
            return ExitCode.DONE
        return self._end(ended, self.decide(ended))

    def _not_to_begin(self) -> ExitCode | None:
        """Return how this start ends, if it makes no attempt."""
        if is_done(self.run, self.stage):
            self.say("done before")
            return ExitCode.DONE
        if self.history.asked_to_end:
            self.say(f"not started: {self.run.stop} is there")
            return ExitCode.STOPPED
        if self.history.attempts and decide(self.history) == "give up":
            # Its last start ended without this process, which would have said so then.
            return self._give_up(self.history.attempts[-1])
        return ExitCode.STOPPED if self._leaves() else None

    def _leaves(self) -> bool:
        """Go back into the queue without having begun, if a node of this start is not fit."""
        if self.own_nodes.leave():
            return True
        if not self.checks_nodes:
            return False
        try:
            return self.own_nodes.check(_first_host(self.nodes), self.again)
        except PreflightError as error:
            self._record_failure(error)
            raise

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        super()._on_signal(number, frame)
        self.deadline = min(self.deadline, time.monotonic() + self.patience_s)
        words = "asked to yield"
        try:
            self.run.control.mkdir(parents=True, exist_ok=True)
            self.run.yield_.touch()
        except OSError as error:  # a full disk must not end the job here, without its requeue
            words += f", but the stage cannot be told: {error}"
        os.write(1, f"{utc_now()} distrain: {words}\n".encode())

    def _attempt(self) -> AttemptEnd:
        before = read_state(self.folder)
        number = (before["attempt"] if before else 0) + 1
        os.environ[START] = f"{self.id}.{self.restart}"
        os.environ[SETTINGS] = self.rules.to_text()
        if any("MASTER_ADDR" in word for word in self.command):
            os.environ |= _where_to_meet(self.nodes)
        # A cluster that was set up anew gives the same numbers again, and this start must not read
        # the words of that one.
        shutil.rmtree(self.folder.meeting(os.environ[START]).root, ignore_errors=True)
        code = self._wait(self.start())
        self.own_nodes.share_strikes()
        late = time.monotonic() + LATE_S
        while code == 0 and time.monotonic() < late and self._judge(number) == "crashed":
            time.sleep(POLL_S)
        last, self.step = self.step, self._committed()
        how = "none" if code is None else code
        ended = AttemptEnd(self._judge(number), self.step > last, f"exit code {how}")
        if self.are_nodes_gone and ended.ending == "crashed":
            ended = replace(ended, ending="lost", how="no sign of life of any node")
        return self._in_words(self._told_by_nodes(is_over=code is not None) or ended)

    def _told_by_nodes(self, *, is_over: bool) -> AttemptEnd | None:
        """Return the last attempt as the nodes saw it; ``None`` if they were killed."""
        meeting = self._meeting()
        told = read_json(meeting.start)
        if is_over and meeting.term == 0:  # else a node that was replaced must still find that
            shutil.rmtree(meeting.root, ignore_errors=True)
        self.history = replace(self.history, attempts=self.past.attempts())
        last = None if told is None else told.get("last")
        return None if last is None else AttemptEnd(**last)

    def _meeting(self) -> NodeFiles:
        """Return where the nodes agree now; another one may be the first meanwhile."""
        meeting = self.folder.meeting(os.environ[START])
        return meeting.in_term(Term.newest(meeting).number) if self.has_spares else meeting

    def _in_words(self, ended: AttemptEnd) -> AttemptEnd:
        if ended.ending == "yielded":
            return replace(ended, how=YIELDED)
        return (
            ended if ended.ending == "lost" else replace(ended, how=f"attempt failed ({ended.how})")
        )

    def _wait(self, process: "subprocess.Popen[bytes]") -> int | None:
        """Return the exit code; ``None`` if the stage did not yield in time."""
        pulse = Pulse(self.folder.meeting(os.environ[START]).batch_beat, BATCH_BEAT_S)
        ends_by = float("inf")
        members = range(int(os.environ.get("SLURM_NNODES") or 0) if self.has_spares else 0)
        meeting = self.folder.meeting(os.environ[START])
        watches = [Watch(meeting.beat(member), 2 * LOOK_S) for member in members]
        while time.monotonic() < self.deadline:
            if self.has_spares:
                pulse.beat()
                if ends_by == float("inf") and "end" in (read_json(self._meeting().start) or {}):
                    ends_by = time.monotonic() + LATE_S
            self.are_nodes_gone |= are_silent(watches)
            # srun waits for nodes that are no more.
            if time.monotonic() > ends_by or self.are_nodes_gone:
                process.kill()
            try:
                return process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
        self.say(f"did not end within {self.patience_s} s after it was asked to yield")
        return None

    def _judge(self, number: int) -> Ending:
        if is_done(self.run, self.stage):
            return "done"
        error = cast("StageError | None", read_json(self.folder.error))
        return judge(number, read_state(self.folder), error)

    def _end(self, ended: AttemptEnd, verdict: Verdict) -> ExitCode:
        if verdict == "refuse":
            return self._refuse()
        if verdict == "give up":
            return self._give_up(ended)
        if verdict == "again":
            self._require_room()
            bad = self.own_nodes.due()
            if self.requeue(ended.how, f" from step {self.step}"):
                self.own_nodes.exclude(bad)
            else:
                self.say(
                    "Slurm does not let this job be requeued. To go on from step "
                    f"{self.step}: {self.again}"
                )
        elif self.history.asked_to_end:
            self.say("stopped as asked")
        elif ended.ending == "stopped":
            self.say("stopped, and nobody asked to go on")
        else:
            self.say(f"{ended.how}; ended by Slurm")
        return ExitCode.STOPPED

    def _refuse(self) -> ExitCode:
        self.show_error()
        self.say(f"failed for good. When the cause is removed: {self.again}")
        return ExitCode.TRAINING

    def _give_up(self, ended: AttemptEnd) -> ExitCode:
        """Put down, as the runtime does, that the stage failed for good."""
        found = (
            f"{self.history.in_vain} attempts in a row without a new checkpoint, the last: "
            f"{ended.how}"
        )
        name = shlex.quote(self.run.root.name)
        remedy = after_the_logs(name)
        if ended.ending == "yielded":
            remedy = (
                "Leave an attempt the time to begin and to make a step before its grace period: "
                f"`distrain resume {name} launch.time_limit=...`."
            )
        error = TrainingError(f"stage {self.stage}", found, "a finished stage", remedy)
        self._record_failure(error)
        self.say(f"{found}; gives up. When the cause is removed: {self.again}")
        return ExitCode.TRAINING

    def _require_room(self) -> None:
        """Refuse a requeue, of which no start could write a word."""
        try:
            check_room(self.folder.path)
        except PreflightError as error:
            self._record_failure(error)
            raise

    def _record_failure(self, error: DistrainError) -> None:
        state = read_state(self.folder)
        with suppress(OSError):  # where there is no room; the log has the message
            record_failure(self.run, self.stage, error, state["attempt"] if state else 0)

    def _record_restart(self, how: str) -> None:
        where = {"job": self.id, "restart": self.restart, "nodes": self.nodes}
        try:
            append_event(self.run.events, "restarted", self.stage, reason=how, **where)
        except OSError as error:
            self.say(f"{self.run.events} cannot be written: {error.strerror}")

    def _committed(self) -> int:
        """Return the step of the newest checkpoint."""
        names = (path.name for path in self.folder.checkpoints.glob(f"{STEP_PREFIX}*"))
        steps = (name.removeprefix(STEP_PREFIX).partition(".")[0] for name in names)
        return max((int(step) for step in steps if step.isdigit()), default=0)


def are_silent(watches: Sequence[Watch]) -> bool:
    """Whether nobody gives signs of life any more; not before somebody did."""
    silent = [watch.look() > MEMBERS_S for watch in watches]
    return all(silent) and any(watch.is_heard for watch in watches)


def _where_to_meet(nodes: str) -> dict[str, str]:
    """Return the variables of the node's command: where the processes of a stage meet."""
    return {
        "MASTER_ADDR": _first_host(nodes),
        "MASTER_PORT": str(20000 + int(os.environ["SLURM_JOB_ID"]) % 10000),
    }


def _first_host(nodes: str) -> str:
    names = ask_slurm(["scontrol", "show", "hostnames", nodes]).out.split()
    return address_of(names[0] if names else "localhost")
