"""The process of the batch script, as nodes of a job with spares see it.

It dies with the first host of the job, and the job does not: ``--no-kill`` keeps the other nodes,
and without a batch script Slurm calls the job running for ever. So the first node, whichever it is
by then, does what that process would have done: it asks the stage to save before the time is up,
and has the job started again, where the next batch process judges by the stage's records.
"""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from distrain.runs.folder import NodeFiles, RunFolder
from launcher.backends.beats import QUIET_S, SILENCE_S, Watch
from launcher.backends.slurm.batch import PAUSES_S, POLL_S, say
from launcher.backends.slurm.client import Answer

BATCH_BEAT_S = 1.0
"""Between two of its signs of life."""


class BatchProcess:
    """What is known of it.

    Args:
        run: Folder of the run.
        meeting: Where its signs of life lie.
        job: Id.
        grace_s: How long before its end a job is asked to save.
        ask: Asks Slurm; a command that fails has an answer, too.
    """

    def __init__(
        self,
        run: RunFolder,
        meeting: NodeFiles,
        job: str,
        grace_s: float,
        ask: Callable[[Sequence[str]], Answer],
    ) -> None:
        self._run = run
        self._job = job
        self._grace_s = grace_s
        self._ask = ask
        self._watch = Watch(meeting.batch_beat)
        self._yields_at: float | None = None

    def stand_in(self) -> None:
        """Once it is gone, ask the stage to save when the time is nearly up."""
        if self._watch.look() <= SILENCE_S:
            return
        if self._yields_at is None:
            say("the process of the batch script is gone; this node sees to the job's end")
            self._yields_at = time.monotonic() + self._left_s() - self._grace_s
        if time.monotonic() >= self._yields_at:
            self._yields_at = float("inf")
            with suppress(OSError):
                self._run.yield_.touch()

    def is_gone(self, beat: Callable[[], None], *, with_its_host: bool) -> bool:
        """Wait for its next sign of life, and return whether none came.

        Args:
            beat: Gives signs of this process's life meanwhile.
            with_its_host: Whether its host is gone: then its silence needs no long proof.
        """
        limit_s = QUIET_S if with_its_host else SILENCE_S
        seen = Watch(self._watch.path)
        while not seen.is_heard and max(seen.look(), self._watch.look()) <= limit_s:
            beat()
            time.sleep(POLL_S)
        return not seen.is_heard

    def end_job(self) -> bool:
        """Have Slurm start the job again, or end it: it must not go on without a process.

        Returns:
            Whether it starts again.
        """
        for pause_s in PAUSES_S:
            answer = self._ask(["scontrol", "requeue", self._job])
            if answer.code == 0:
                return True
            say(f"scontrol requeue: {answer.err.strip()}")
            time.sleep(pause_s)
        say(f"Slurm does not let job {self._job} be requeued; it is cancelled, submit it again")
        self._ask(["scancel", self._job])
        return False

    def _left_s(self) -> float:
        answer = self._ask(["scontrol", "show", "job", "--oneliner", self._job])
        found = re.search(r" EndTime=(\S+)", answer.out)
        with suppress(ValueError):
            if found is not None:  # local time, as Slurm writes it; ``Unknown`` without a limit
                end = datetime.fromisoformat(found[1]).astimezone()
                return (end - datetime.now(UTC)).total_seconds()
        return float("inf")
