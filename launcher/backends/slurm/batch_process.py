"""The process of the batch script, as nodes of a job with spares see it.

It dies with the first host of the job, and the job does not: ``--no-kill`` keeps the other nodes,
and without a batch script Slurm calls the job running for ever. So the first node, whichever it is
by then, does what that process would have done: it asks the stage to save before the time is up,
and has the job started again, where the next batch process judges by the stage's records.
"""

import re
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from contextlib import suppress
from datetime import UTC, datetime

from distrain.runs.folder import NodeFiles, RunFolder
from launcher.backends.beats import LOOK_S, QUIET_S, SILENCE_S, Watch
from launcher.backends.slurm.batch import PAUSES_S, POLL_S, say
from launcher.backends.slurm.client import UNKNOWN_JOB, Answer

BATCH_BEAT_S = 1.0
"""Between two of its signs of life."""
ASK_AGAIN_S = 60.0
"""Between two questions to a Slurm that does not tell when the job ends."""
LEAD_S = 10.0
"""How long before its end a job that has not yielded is started again: later it has timed out."""
AWAY = re.compile(
    r"unable to contact|timed out|no answer|zero bytes|connect|standby", re.IGNORECASE
)
"""In what a command says when nobody answered it: Slurm has refused nothing then."""


class BatchProcess:
    """What is known of it.

    Args:
        run: Folder of the run.
        meeting: Where its signs of life lie.
        start: Id of the job and its number of restarts, as ``5.0``.
        grace_s: How long before its end a job is asked to save.
        ask: Asks Slurm; a command that fails has an answer, too.
        look_around: Gives signs of this process's life, and ends it if it was replaced; called
            while it waits, also for Slurm.
    """

    def __init__(
        self,
        run: RunFolder,
        meeting: NodeFiles,
        start: str,
        grace_s: float,
        ask: Callable[[Sequence[str]], Answer],
        look_around: Callable[[], None],
    ) -> None:
        self._run = run
        self._job, _, self._restart = start.rpartition(".")
        self._grace_s = grace_s
        self._ask_slurm = ask
        self._look_around = look_around
        self._watch = Watch(meeting.batch_beat, 2 * LOOK_S)
        self._is_told = False
        self._asks_at = 0.0
        self._ends_at = float("inf")
        self._has_yielded = False

    def stand_in(self) -> None:
        """Once it is gone, see to the time limit: a wish to save, and a requeue just before it."""
        if self._watch.look() <= SILENCE_S:
            return
        if not self._is_told:
            self._is_told = True
            say("the process of the batch script is gone; this node sees to the job's end")
        if time.monotonic() >= self._asks_at:
            left_s = self._left_s()
            # Without an answer it is asked again; a time limit that was told stays.
            self._asks_at = time.monotonic() + ASK_AGAIN_S if left_s is None else float("inf")
            self._ends_at = time.monotonic() + (float("inf") if left_s is None else left_s)
        if not self._has_yielded and time.monotonic() >= self._ends_at - self._grace_s:
            self._has_yielded = True
            with suppress(OSError):
                self._run.yield_.touch()
        if time.monotonic() >= self._ends_at - min(LEAD_S, self._grace_s / 2):
            self._ends_at = float("inf")
            say("the stage has not yielded in time; asks Slurm to start the job again")
            self.end_job()

    def is_gone(self, *, with_its_host: bool) -> bool:
        """Wait for its next sign of life, and return whether none came.

        Args:
            with_its_host: Whether its host is gone: then its silence needs no long proof.
        """
        limit_s = QUIET_S if with_its_host else SILENCE_S
        seen = Watch(self._watch.path, 2 * LOOK_S)
        while not seen.is_heard and max(seen.look(), self._watch.look()) <= limit_s:
            self._look_around()
            time.sleep(POLL_S)
        return not seen.is_heard

    def end_job(self) -> bool:
        """Have Slurm start the job again, or end it: it must not go on without a process.

        Nobody else would, so it is asked until it answers. What it has ended or requeued itself
        stays so: a cancelled job would come back from a requeue.

        Returns:
            Whether this start is over without being cancelled here.
        """
        refusals = 0
        while True:
            is_running = self._is_running()
            if is_running is False:
                say("Slurm has ended this start of the job by itself")
                return True
            if is_running:
                is_hopeless = refusals >= len(PAUSES_S)
                if is_hopeless:
                    say(f"Slurm does not requeue job {self._job}; it is cancelled, submit it again")
                command = ["scancel"] if is_hopeless else ["scontrol", "requeue"]
                answer = self._ask([*command, self._job])
                if answer.code == 0:
                    return not is_hopeless
                say(f"{' '.join(command)}: {answer.err.strip()}")
                refusals += AWAY.search(answer.err) is None
            self._pause(PAUSES_S[min(refusals, len(PAUSES_S) - 1)])

    def _is_running(self) -> bool | None:
        """Whether this start of the job does; ``None`` if Slurm does not tell."""
        answer = self._ask(["scontrol", "show", "job", "--oneliner", self._job])
        state = re.search(r" JobState=(\S+)", answer.out)
        if state is None:
            return False if answer.code != 0 and UNKNOWN_JOB.search(answer.err) else None
        restarts = re.search(r" Restarts=(\d+)", answer.out)
        is_ours = restarts is None or restarts[1] == self._restart
        return is_ours and state[1] == "RUNNING"

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._look_around()
            time.sleep(min(POLL_S, max(until - time.monotonic(), 0)))

    def _ask(self, argv: Sequence[str]) -> Answer:
        """Ask Slurm, which may take a minute to say that it is away, and give signs of life."""
        with futures.ThreadPoolExecutor(1) as thread:
            answer = thread.submit(self._ask_slurm, argv)
            while not answer.done():
                self._look_around()
                futures.wait([answer], POLL_S)
            return answer.result()

    def _left_s(self) -> float | None:
        """Return how long the job may still run; ``None`` if Slurm does not tell."""
        answer = self._ask(["scontrol", "show", "job", "--oneliner", self._job])
        found = re.search(r" EndTime=(\S+)", answer.out)
        if found is None:
            return None
        with suppress(ValueError):  # local time, as Slurm writes it; ``Unknown`` without a limit
            end = datetime.fromisoformat(found[1]).astimezone()
            return (end - datetime.now(UTC)).total_seconds()
        return float("inf")
