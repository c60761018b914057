"""The one rule of restarts: what becomes of a stage after attempts that did not finish it. Pure.

Whoever starts attempts observes how each ended and asks ``decide``: the launcher itself for a local
run, else the supervisor of the first node; under Slurm also the batch process, about another start
of the job. What each of the four answers means there, such as a requeue, is theirs.
"""

from dataclasses import dataclass, replace
from typing import Literal

from distrain.runs.records import StageError, StageState

Ending = Literal["done", "yielded", "stopped", "refused", "crashed", "lost"]
"""``yielded``: saved, ended as asked, work is left. ``stopped``: the same, and it shall stay ended.
``refused``: it met an error that another attempt would meet again. ``lost``: ended by a dead
node or a scheduler, maybe with whatever watched it, so that nothing is to be said against it."""

Verdict = Literal["again", "wait", "refuse", "give up"]
"""``again``: start another attempt. ``wait``: start nothing now; nothing has failed, and who asked
for the end, or the scheduler, starts it again. ``refuse``: failed, the record says why.
``give up``: failed, because attempts only repeat themselves."""

LATE_S = 10.0
"""How late a shared file system may show what an attempt that ended well left on another node."""


@dataclass(frozen=True)
class AttemptEnd:
    """How one attempt ended."""

    ending: Ending
    committed: bool = False
    """Whether it left a newer step, or a further range, than it found."""
    how: str = ""
    """In words, such as ``exit code 1``."""


@dataclass(frozen=True)
class History:
    """What is known of a stage when it is to be started, or an attempt of it has ended."""

    attempts: tuple[AttemptEnd, ...] = ()
    """Since the user last started it, oldest first."""
    max_restarts: int = 3
    """Attempts in a row that may be in vain, less one."""
    max_idle_yields: int | None = None
    """The same where the last of them yielded; ``None``: no other number. A phase of a stage has 0:
    what it leaves undone is done by the job behind it."""
    yields_go_on: bool = False
    """Whether a stage that yielded shall start again: somewhere it goes back to a queue, on one
    machine it was the user who wanted the machine."""
    asked_to_end: bool = False
    """The user wants the run to end, and to stay ended."""
    is_taken: bool = False
    """The scheduler has ended the job, or starts it again by itself."""

    def then(self, attempt: AttemptEnd) -> "History":
        """Return the history with one more attempt."""
        return replace(self, attempts=(*self.attempts, attempt))

    @property
    def in_vain(self) -> int:
        """Number of the last attempts in a row that committed nothing.

        Yields count, or a time limit shorter than the start would requeue for ever. What was lost
        neither counts nor ends the row.
        """
        count = 0
        for attempt in reversed(self.attempts):
            if attempt.ending == "lost":
                continue
            if attempt.committed:
                break
            count += 1
        return count


def decide(history: History) -> Verdict:
    """Say what becomes of a stage that is not done. Before the first attempt, too."""
    last = history.attempts[-1] if history.attempts else None
    if last is not None and last.ending == "refused":
        return "refuse"
    if history.asked_to_end or (last is not None and _rests(last, history)):
        return "wait"
    if last is None:
        return "again"
    allowed = history.max_restarts
    if last.ending == "yielded" and history.max_idle_yields is not None:
        allowed = history.max_idle_yields
    return "give up" if history.in_vain > allowed else "again"


def _rests(last: AttemptEnd, history: History) -> bool:
    """Whether nothing is to be started although nothing has failed."""
    if last.ending == "yielded":
        return history.is_taken or not history.yields_go_on
    return history.is_taken or last.ending in ("done", "stopped")


def judge(attempt: int, state: StageState | None, error: StageError | None) -> Ending:
    """Say how an attempt ended, from what it left behind.

    A state of an earlier attempt says nothing: the attempt died before it could write its own.
    """
    if error is not None:
        return "refused"
    if state is None or state["attempt"] < attempt or state["state"] not in ("done", "stopped"):
        return "crashed"
    if state["state"] == "done":
        return "done"
    return "yielded" if state.get("requeue") else "stopped"
