"""Which Slurm jobs a stage consists of.

Most stages are one job. A prepare stage over several tasks is a chain: a plan, an array that
cleans, one job that decides what needs all documents, an array that encodes, and at its end the
same job that would otherwise do all of it. That one finishes what is left, so it waits until those
before it have ended, however they did; a lost task costs time and nothing else.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from distrain.runs.phases import PHASES, SHARED_PHASES, Phase
from launcher.plan import StagePlan


@dataclass(frozen=True)
class StageJob:
    """One job of a stage."""

    stage: StagePlan
    phase: Phase | None
    """``None``: the job that ends the stage."""
    tasks: int
    """Of its array; 1: it is none."""
    behind: str | None
    """Name of the job of the same stage that has to end before, in any way."""

    @property
    def name(self) -> str:
        """Within the run: that of the stage for the job that ends it."""
        return job_key(self.stage.name, self.phase)


def job_key(stage: str, phase: Phase | None) -> str:
    """Return the name of a job within its run: of its script, and in ``jobs.json``."""
    return stage if phase is None else f"{stage}.{phase}"


def jobs_of(stages: Iterable[StagePlan]) -> list[StageJob]:
    """Return the jobs of stages, in an order in which each comes after those it waits for."""
    return [job for stage in stages for job in _chain(stage)]


def _chain(stage: StagePlan) -> list[StageJob]:
    jobs: list[StageJob] = []
    phases: tuple[Phase, ...] = PHASES if stage.tasks > 1 else ()
    for phase in (*phases, None):
        tasks = stage.tasks if phase in SHARED_PHASES else 1
        jobs.append(StageJob(stage, phase, tasks, jobs[-1].name if jobs else None))
    return jobs
