"""One start of a Slurm job, as its supervisor sees it: what stages and phases have in common."""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType

from distrain.errors import SchedulerError
from distrain.runs.folder import RunFolder
from distrain.runs.records import utc_now
from launcher.backends.restart import AttemptEnd, History, Verdict, decide
from launcher.backends.slurm.client import Answer, run_command
from launcher.backends.slurm.past import Past

BY_SLURM = "requeued by Slurm: lost node, preemption or by hand"
"""Of a start whose supervisor left no word: it was killed."""
START = "DISTRAIN_START"
"""Variable that names a start of a job: id and restart count."""
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
POLL_S = 0.2
PAUSES_S = (1, 2, 3, 4, 5)
"""After each refusal of a requeue."""


class BatchJob:
    """One start of a job."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.run = RunFolder(arguments.run)
        self.stage: str = arguments.stage
        self.folder = self.run.stage(self.stage)
        self.command: list[str] = arguments.command
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        # The plain id of a task may stand for the whole array.
        task = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
        self.id = task if array else os.environ["SLURM_JOB_ID"]
        self.nodes = os.environ["SLURM_JOB_NODELIST"]
        self.past = Past(self.folder, self.id)
        self.history = History(max_restarts=arguments.max_restarts, yields_go_on=True)
        self.told: list[int] = []
        """Signals that came in."""

    def listen(self, heard: list[int]) -> None:
        """Take Slurm's signals: the time is nearly up, or the job is preempted or cancelled.

        Args:
            heard: Those that came before.
        """
        for listened in SIGNALS:
            signal.signal(listened, self._on_signal)
        for number in heard:
            self._on_signal(number, None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.told.append(number)

    def begin(self) -> None:
        """Look back at the earlier starts of this job; what left no word was lost."""
        self.folder.logs.mkdir(parents=True, exist_ok=True)
        self.run.control.mkdir(parents=True, exist_ok=True)
        if self.restart == 0:
            self.past.forget()
        ends = list(self.past.attempts())
        for start in self.past.lost_starts(self.restart):
            ends.append(AttemptEnd("lost", how=BY_SLURM))
            self.put_down(ends[-1], start)
        self.history = replace(self.history, attempts=tuple(ends))
        if self.run.stop.exists():
            self.history = replace(self.history, asked_to_end=True)

    def decide(self, ended: AttemptEnd) -> Verdict:
        """Ask the rule what becomes of the stage after this start."""
        stop = self.run.stop.exists()
        taken = ended.ending not in ("refused", "stopped") and not stop and not self.is_running()
        history = replace(self.history.then(ended), asked_to_end=stop, is_taken=taken)
        self.history = history
        return decide(history)

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the command. It is not waited for when this process ends: Slurm ends it."""
        return subprocess.Popen(self.command)

    def is_running(self) -> bool:
        """Return whether Slurm has not cancelled, timed out or requeued this job meanwhile."""
        answer = ask_slurm(["scontrol", "show", "job", "--oneliner", self.id])
        # No answer says nothing.
        return " JobState=RUNNING " in answer.out or " JobState=" not in answer.out

    def requeue(self, how: str, where: str = "") -> bool:
        """Put the job back into the queue; False if Slurm does not let it."""
        is_put_down = False
        for pause_s in PAUSES_S:
            if not self.is_running():  # a cancelled job must stay cancelled
                self.say(f"{how}; Slurm has ended this job or starts it again by itself")
                return True
            if not is_put_down:  # before it is asked: Slurm ends this process then
                is_put_down = True
                self.put_down(self.history.attempts[-1], self.restart)
            self.say(f"{how}; asks Slurm to start it again{where}")
            answer = ask_slurm(["scontrol", "requeue", self.id])
            if answer.code == 0:
                return True
            self.say(f"scontrol requeue: {answer.err.strip()}")
            time.sleep(pause_s)
        return False

    def put_down(self, ended: AttemptEnd, start: int) -> None:
        """Keep the end of a start for the job's next one, which takes what is missing for lost."""
        try:
            self.past.put_down(ended, start)
        except OSError as error:  # no reason to lose the requeue as well
            self.say(f"{self.past.path} cannot be written: {error.strerror}")

    def say(self, text: str) -> None:
        """Write a line to the job's log."""
        say(text)

    def show_error(self) -> None:
        """Write to the log what the stage itself has put down."""
        sys.stdout.write(self.folder.error.read_text())


def say(text: str) -> None:
    """Write a line to the job's log."""
    sys.stdout.write(f"{utc_now()} distrain: {text}\n")
    sys.stdout.flush()


def ask_slurm(argv: Sequence[str]) -> Answer:
    """Run a Slurm command; one that does not answer in time has failed, and the job goes on."""
    try:
        return run_command(argv)
    except SchedulerError as error:
        return Answer(1, "", str(error))


def address_of(node: str) -> str:
    """Return how the other nodes of a job address one, given Slurm's name of it."""
    try:
        socket.getaddrinfo(node, None)
    except OSError:  # not every site's node names are host names
        line = ask_slurm(["scontrol", "show", "node", "--oneliner", node]).out
        found = re.search(r" NodeAddr=(\S+)", line)
        return found[1] if found else node
    return node
