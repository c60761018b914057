"""What a backend is: a way of starting the stages of a run somewhere.

The commands know only this. ``launcher.backends.backend`` lists those that there are.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from distrain.errors import ExitCode
from distrain.runs.folder import RunFolder
from launcher.plan import Plan, StagePlan
from launcher.watch.progress import Display, Extent


@dataclass(frozen=True)
class Surroundings:
    """What a run is given besides its plan."""

    say: Callable[[str], None]
    """Shows a line to the user, on stderr."""
    make_display: Callable[[Extent], Display]
    """Makes the display of one attempt."""
    python: str = sys.executable
    arguments: tuple[str, ...] = ()
    """Further arguments of the runtime's ``stage`` command; a stage that is done runs again."""


@dataclass(frozen=True)
class SubmittedJob:
    """One job in the queue, or what would be queued."""

    stage: str
    """Name within the run: the stage's, with ``.<phase>`` for a job that does one phase of it."""
    script: Path
    text: str
    """Of the script."""
    job: str | None
    """The scheduler's id; ``None`` in a dry run."""
    after: tuple[str, ...]
    """Stages whose success it waits for, and the job of its own stage whose end it waits for."""
    is_new: bool
    """False: it was queued or running before."""
    tasks: int = 1
    """Of the array; 1: it is none."""


@dataclass(frozen=True)
class JobState:
    """What a scheduler says about a job that was once queued for a stage."""

    stage: str
    phase: str
    """Empty: the job that ends the stage."""
    job: str
    """The scheduler's id."""
    word: str
    """The scheduler's own; ``gone`` if it knows no such job."""
    is_live: bool
    """Whether it may still run."""
    is_running: bool
    note: str
    """What it waits for, in plain words; empty if it does not wait."""


@dataclass(frozen=True)
class RunJobs:
    """The jobs of one run, in the order in which they run."""

    jobs: tuple[JobState, ...] = ()
    problem: str = ""
    """Why nothing is known of them."""


class Backend(Protocol):
    """A way of starting the stages of a run.

    Whatever it starts must speak through the run folder: ``state.json`` alone says how a stage
    ended, the files of ``control/`` what is wanted of it, and restarts follow
    ``launcher.backends.restart``.
    """

    is_queued: bool
    """Whether ``start`` only queues jobs: then ``submit`` is its command, not ``run``, and its
    machines are those that the site file describes."""

    def check(self, plan: Plan) -> list[str]:
        """Look for what the machine lacks before anything is written; return notes.

        Raises:
            DistrainError: What is missing, with its remedy.
        """
        ...

    def render(self, plan: Plan) -> str:
        """Write what ``start`` would start, exactly. Writes no file."""
        ...

    def start(
        self, plan: Plan, stages: Sequence[StagePlan], around: Surroundings
    ) -> "ExitCode | list[SubmittedJob]":
        """Run ``stages`` in order, or queue them; those that are done are left out.

        The caller holds the lock of the run.

        Raises:
            DistrainError: Why one of them failed, or could not be queued.
        """
        ...

    def states(self, runs: Sequence[RunFolder]) -> list[RunJobs]:
        """Return what a scheduler knows of the jobs of each run; nothing where there is none.

        With several runs it is asked once, and need know only of jobs that have not ended.
        """
        ...

    def cancel(self, run: RunFolder, stages: Iterable[str]) -> None:
        """End what does not look at ``control/stop`` by itself.

        Raises:
            DistrainError: It could not.
        """
        ...
