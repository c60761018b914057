"""A job that does one phase of a stage: its supervisor's side of one start."""

import argparse
import signal
import subprocess
from dataclasses import replace

from distrain.errors import ExitCode
from distrain.runs.phases import PHASES
from launcher.backends.restart import AttemptEnd, Ending, Verdict
from launcher.backends.slurm.batch import POLL_S, BatchJob


class PhaseBatch(BatchJob):
    """A job that does one phase of a stage, or one share of it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        self.phase: str = arguments.phase
        self.history = replace(self.history, max_idle_yields=0)

    def supervise(self) -> ExitCode:
        """Do the phase once and say what becomes of the job."""
        self.begin()
        if self.phase == PHASES[0] and self.restart == 0:
            self.folder.error.unlink(missing_ok=True)  # of an earlier submission
        self.say(
            f"phase {self.phase} of stage {self.stage}, job {self.id}, restart {self.restart}, "
            f"nodes {self.nodes}"
        )
        if self.history.asked_to_end:
            self.say(f"not started: {self.run.stop} is there")
            return ExitCode.STOPPED
        if self.folder.error.exists():
            self.say(f"not started: {self.folder.error} is there")
            return ExitCode.TRAINING
        ended = self._attempt()
        if ended.ending == "done":
            return ExitCode.DONE
        return self._end(ended, self.decide(ended))

    def _attempt(self) -> AttemptEnd:
        before = self._finished()
        process = self.start()
        while not self.told:
            try:
                code = process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
            return self._judged(code, self._finished() > before)
        # The ranges in work are lost, the finished ones are not.
        if self.told[0] == signal.SIGUSR1:
            return AttemptEnd("yielded", self._finished() > before, "the time is up")
        return AttemptEnd("lost", how="told to end")  # by a preemption, or before it is cancelled

    def _judged(self, code: int, committed: bool) -> AttemptEnd:
        ending: Ending = "crashed"
        if code == ExitCode.DONE:
            ending = "done"
        elif code == ExitCode.STOPPED:
            return AttemptEnd("stopped", committed, "nothing to do yet")
        elif self.folder.error.exists():
            ending = "refused"
        return AttemptEnd(ending, committed, f"attempt failed (exit code {code})")

    def _end(self, ended: AttemptEnd, verdict: Verdict) -> ExitCode:
        if verdict == "refuse":
            self.show_error()
            self.say("failed for good")
            return ExitCode.TRAINING
        left = ended.how
        if verdict == "again":
            if self.requeue(ended.how):
                return ExitCode.STOPPED
            left = "Slurm does not let this job be requeued"
        elif verdict == "give up" and ended.ending == "yielded":
            left += ", and no range was finished in it"
        self.say(f"{left}; a later job does the rest")
        return ExitCode.STOPPED

    def _finished(self) -> int:
        """Count the ranges that are finished, by all tasks."""
        return sum(1 for _ in self.folder.work.rglob("*.json"))
