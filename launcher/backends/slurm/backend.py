"""The backend ``slurm``: a job a stage, in the queue of a cluster."""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace

from distrain.config.launch import SiteConfig
from distrain.errors import SchedulerError
from distrain.runs.folder import RunFolder
from distrain.runs.phases import PHASES
from distrain.runs.products import check_sources
from distrain.runs.records import is_done, read_json
from launcher.backends.protocol import JobState, RunJobs, SubmittedJob, Surroundings
from launcher.backends.slurm.client import JobInfo, Slurm, ignored_variables, no_slurm
from launcher.backends.slurm.jobs import job_key
from launcher.plan import Plan, StagePlan
from launcher.preflight import check_submission

GONE = JobInfo("gone", "", 0, "", "")
"""Of a job that Slurm has forgotten."""


class SlurmBackend:
    """Queues the jobs of a run.

    Args:
        slurm: The cluster's commands; replaced in tests.
    """

    is_queued = True

    def __init__(self, slurm: Slurm | None = None) -> None:
        self._slurm = slurm or Slurm()

    def check(self, plan: Plan) -> list[str]:
        """Refuse where Slurm is not; name the variables that it will not see."""
        if shutil.which("sbatch") is None:
            raise no_slurm("sbatch")
        check_submission(plan.recipe, plan.run.root)
        return ignored_variables(os.environ)

    def render(self, plan: Plan) -> str:
        """Write the scripts."""
        from launcher.backends.slurm.queue import submit_run  # jinja2 takes a while

        site = plan.site or SiteConfig()
        jobs = submit_run(plan, plan.recipe.launch, site, dry_run=True)
        return "\n".join(f"# {job.script}\n{job.text}" for job in jobs)

    def start(
        self, plan: Plan, stages: Sequence[StagePlan], around: Surroundings
    ) -> list[SubmittedJob]:
        """Queue the jobs."""
        from launcher.backends.slurm.queue import submit_run

        for stage in stages:
            if is_done(plan.run, stage.name):  # no job of it would look
                check_sources(plan.run, stage.name)
        plan = replace(plan, stages=tuple(stages))
        site = plan.site or SiteConfig()
        return submit_run(plan, plan.recipe.launch, site, dry_run=False, slurm=self._slurm)

    def states(self, runs: Sequence[RunFolder]) -> list[RunJobs]:
        """Ask Slurm about jobs that were ever submitted, of one run or, at once, of several."""
        recorded = [recorded_jobs(run) for run in runs]
        ids = [job for jobs in recorded for job in jobs.values()]
        if not ids:
            return [RunJobs() for _ in runs]
        try:
            known = self._slurm.job_states(ids) if len(runs) == 1 else self._slurm.queue()
        except SchedulerError as error:
            problem = f"Slurm: {error.found}"
            return [RunJobs(problem=problem if jobs else "") for jobs in recorded]
        return [_jobs_of_run(jobs, known) for jobs in recorded]

    def cancel(self, run: RunFolder, stages: Iterable[str]) -> None:
        """Cancel the jobs that do one phase of a stage; what they finished stays.

        The job that ends a stage is left to find that it shall stop, and to say so.
        """
        jobs = recorded_jobs(run)
        names = [job_key(stage, phase) for stage in stages for phase in PHASES]
        self._slurm.cancel([jobs[name] for name in names if name in jobs])


def recorded_jobs(run: RunFolder) -> dict[str, str]:
    """Return the id of each job that was ever submitted by its name, the last one of each."""
    return {stage: str(job) for stage, job in (read_json(run.jobs) or {}).items()}


def _jobs_of_run(recorded: dict[str, str], known: dict[str, JobInfo]) -> RunJobs:
    found = []
    for name, job in recorded.items():
        stage, phase = _parts(name)
        info = known.get(job, GONE)
        running = info.state == "RUNNING"
        found.append(JobState(stage, phase, job, info.state, info.is_live, running, info.note))
    order = (*PHASES, "")
    return RunJobs(tuple(sorted(found, key=lambda state: order.index(state.phase))))


def _parts(name: str) -> tuple[str, str]:
    """Take the name of a job within its run apart, the reverse of ``job_key``."""
    stage, _, phase = name.rpartition(".")
    return (stage, phase) if stage and phase in PHASES else (name, "")
