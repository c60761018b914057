"""Queues the jobs of a run with Slurm, each behind those it needs; all of them or none."""

import sys
import time
from pathlib import Path

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.errors import SchedulerError
from distrain.runs.durable import write_text
from distrain.runs.folder import RunFolder
from distrain.runs.records import append_event, is_done, write_json
from launcher.backends.interrupt import clear_wishes
from launcher.backends.protocol import SubmittedJob
from launcher.backends.slurm.backend import recorded_jobs
from launcher.backends.slurm.client import JobInfo, Slurm
from launcher.backends.slurm.jobs import StageJob, jobs_of
from launcher.backends.slurm.script import job_name, render_job
from launcher.plan import Plan

COMPLETING_PATIENCE_S = 60.0
"""How long Slurm may take to say whether an ending job goes back into the queue."""


def script_of(run: RunFolder, job: str) -> Path:
    """Return where the sbatch script of a job is kept."""
    return run.scripts / f"{job}.sbatch"


def submit_run(
    plan: Plan,
    launch: LaunchConfig,
    site: SiteConfig,
    *,
    dry_run: bool,
    slurm: Slurm | None = None,
) -> list[SubmittedJob]:
    """Write and queue the jobs of each stage that is not done, but for those in the queue.

    The caller holds the lock of the run. A dry run writes nothing and needs no Slurm.

    Raises:
        RecipeError: A script cannot be written as asked; nothing was queued.
        SchedulerError: Slurm is not there, or refused a job; those queued before it by this call
            were cancelled.
    """
    python = site.python or sys.executable
    pending = [stage for stage in plan.stages if not is_done(plan.run, stage.name)]
    jobs = jobs_of(pending)
    texts = {job.name: render_job(job, plan.run, launch, site, python) for job in jobs}
    if dry_run:
        return [_submitted(plan.run, job, texts[job.name], job.stage.needs) for job in jobs]
    queue = _Queue(plan.run, slurm or Slurm())
    clear_wishes(plan.run)
    return queue.fill(jobs, texts)


class _Queue:
    """The jobs of one run, while they are being submitted."""

    def __init__(self, run: RunFolder, slurm: Slurm) -> None:
        self._run = run
        self._slurm = slurm
        self._before = recorded_jobs(run)
        self._live: dict[str, str] = {}
        self._new: dict[str, str] = {}

    def fill(self, jobs: list[StageJob], texts: dict[str, str]) -> list[SubmittedJob]:
        # Ask about all of them first: a Slurm that does not answer shall leave nothing behind.
        self._live = {job.name: found for job in jobs if (found := self._live_job(job.name))}
        if not self._live.items() <= self._before.items():
            self._record()  # found in the queue only
        submitted = []
        for job in self._not_past(jobs):
            try:
                submitted.append(self._put(job, texts[job.name]))
            except SchedulerError as error:
                self._take_back(error)
        return submitted

    def _not_past(self, jobs: list[StageJob]) -> list[StageJob]:
        """Leave out jobs that have ended while one behind them is in the queue or runs."""
        wanted: list[StageJob] = []
        overtaken: set[str] = set()
        for job in reversed(jobs):
            if job.name in self._live:
                overtaken.add(job.stage.name)
            elif job.stage.name in overtaken:
                continue
            wanted.append(job)
        return wanted[::-1]

    def _put(self, job: StageJob, text: str) -> SubmittedJob:
        ids = self._live | self._new
        needs = [need for need in job.stage.needs if need in ids]  # the others are done
        behind = job.behind if job.behind in ids else None
        after = (*needs, *([behind] if behind else []))
        known = self._live.get(job.name)
        if known is not None:
            return _submitted(self._run, job, text, after, known, is_new=False)
        script = script_of(self._run, job.name)
        write_text(script, text)
        stage = job.stage.name
        self._run.stage(stage).logs.mkdir(parents=True, exist_ok=True)  # Slurm does not
        new = self._slurm.submit(
            script, [ids[need] for need in needs], ids[behind] if behind else None
        )
        self._new[job.name] = new
        self._record()
        phase = {} if job.phase is None else {"phase": job.phase}
        append_event(self._run.events, "submitted", stage, job=new, **phase)
        return _submitted(self._run, job, text, after, new)

    def _record(self) -> None:
        write_json(self._run.jobs, self._before | self._live | self._new)

    def _live_job(self, name: str) -> str | None:
        """Find a job in the queue, also one whose submitter died before recording it."""
        candidates = [*self._slurm.live_jobs(job_name(self._run, name))]
        if name in self._before and self._before[name] not in candidates:
            candidates.append(self._before[name])
        for job, info in self._settled(candidates).items():
            if info.is_live and info.script == str(script_of(self._run, name)):
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


def _submitted(
    run: RunFolder,
    job: StageJob,
    text: str,
    after: tuple[str, ...],
    found: str | None = None,
    *,
    is_new: bool = True,
) -> SubmittedJob:
    script = script_of(run, job.name)
    return SubmittedJob(job.name, script, text, found, after, is_new, job.tasks)
