"""Queues the stages of a run as Slurm jobs, each behind those it needs; all of them or none."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.config.records import append_event, read_json, write_json, write_text
from distrain.config.run_folder import RunFolder
from distrain.errors import SchedulerError
from launcher.interrupt import clear_wishes
from launcher.plan import Plan, StagePlan
from launcher.scheduler import JobInfo, Slurm
from launcher.slurm import job_name, render_job

COMPLETING_PATIENCE_S = 60.0
"""How long Slurm may take to say whether an ending job goes back into the queue."""


@dataclass(frozen=True)
class SubmittedJob:
    """One stage in the queue, or what would be queued."""

    stage: str
    script: Path
    text: str
    """Of the script."""
    job: str | None
    """Slurm's id; ``None`` in a dry run."""
    after: tuple[str, ...]
    """Stages whose success it waits for."""
    is_new: bool
    """False: it was queued or running before."""


def script_of(run: RunFolder, stage: str) -> Path:
    """Return where the sbatch script of a stage is kept."""
    return run.scripts / f"{stage}.sbatch"


def recorded_jobs(run: RunFolder) -> dict[str, str]:
    """Return the job id of each stage that was ever submitted, the last one of each."""
    return {stage: str(job) for stage, job in (read_json(run.jobs) or {}).items()}


def submit_run(
    plan: Plan,
    launch: LaunchConfig,
    site: SiteConfig,
    *,
    dry_run: bool,
    slurm: Slurm | None = None,
) -> list[SubmittedJob]:
    """Write and queue one job for each stage that is neither done nor queued.

    The caller holds the lock of the run. A dry run writes nothing and needs no Slurm.

    Raises:
        RecipeError: A script cannot be written as asked; nothing was queued.
        SchedulerError: Slurm is not there, or refused a job; those queued before it by this call
            were cancelled.
    """
    python = site.python or sys.executable
    pending = [stage for stage in plan.stages if not _is_done(plan.run, stage.name)]
    texts = {s.name: render_job(s, plan.run, launch, site, python) for s in pending}
    if dry_run:
        return [
            SubmittedJob(s.name, script_of(plan.run, s.name), texts[s.name], None, s.needs, True)
            for s in pending
        ]
    queue = _Queue(plan.run, slurm or Slurm())
    clear_wishes(plan.run)
    return queue.fill(pending, texts)


class _Queue:
    """The jobs of one run, while they are being submitted."""

    def __init__(self, run: RunFolder, slurm: Slurm) -> None:
        self._run = run
        self._slurm = slurm
        self._before = recorded_jobs(run)
        self._live: dict[str, str] = {}
        self._new: dict[str, str] = {}

    def fill(self, stages: list[StagePlan], texts: dict[str, str]) -> list[SubmittedJob]:
        # Ask about all of them first: a Slurm that does not answer shall leave nothing behind.
        self._live = {s.name: job for s in stages if (job := self._live_job(s.name)) is not None}
        if not self._live.items() <= self._before.items():
            self._record()  # found in the queue only
        submitted = []
        for stage in stages:
            try:
                submitted.append(self._put(stage, texts[stage.name]))
            except SchedulerError as error:
                self._take_back(error)
        return submitted

    def _put(self, stage: StagePlan, text: str) -> SubmittedJob:
        script = script_of(self._run, stage.name)
        jobs = self._live | self._new
        after = tuple(need for need in stage.needs if need in jobs)  # the others are done
        job = self._live.get(stage.name)
        if job is not None:
            return SubmittedJob(stage.name, script, text, job, after, is_new=False)
        write_text(script, text)
        self._run.stage(stage.name).logs.mkdir(parents=True, exist_ok=True)  # Slurm does not
        job = self._slurm.submit(script, [jobs[need] for need in after])
        self._new[stage.name] = job
        self._record()
        append_event(self._run.events, "submitted", stage.name, job=job)
        return SubmittedJob(stage.name, script, text, job, after, is_new=True)

    def _record(self) -> None:
        write_json(self._run.jobs, self._before | self._live | self._new)

    def _live_job(self, stage: str) -> str | None:
        """Find the stage's job in the queue, also one whose submitter died before recording it."""
        name = job_name(self._run, stage)
        candidates = [*self._slurm.live_jobs(name)]
        if stage in self._before and self._before[stage] not in candidates:
            candidates.append(self._before[stage])
        for job, info in self._settled(candidates).items():
            if info.is_live and info.script == str(script_of(self._run, stage)):
                return job
        return None

    def _settled(self, jobs: list[str]) -> dict[str, JobInfo]:
        deadline = time.monotonic() + COMPLETING_PATIENCE_S
        while True:
            states = self._slurm.job_states(jobs)
            ending = any(info.state == "COMPLETING" for info in states.values())
            if not ending or time.monotonic() > deadline:
                return states
            time.sleep(1)

    def _take_back(self, error: SchedulerError) -> None:
        jobs = list(self._new.values())
        self._slurm.cancel(jobs)
        self._new = {}
        if jobs:
            self._record()
        undone = (
            f" The jobs queued just before ({', '.join(jobs)}) were cancelled."
            if jobs
            else " Nothing was queued."
        )
        raise SchedulerError(error.where, error.found, error.expected, error.remedy + undone)


def _is_done(run: RunFolder, stage: str) -> bool:
    state = read_json(run.stage(stage).state)
    return state is not None and state["state"] == "done"
