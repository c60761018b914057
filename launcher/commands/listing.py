"""All runs, a line each: ``distrain list``."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from distrain.config.reading.load import read_resolved
from distrain.errors import DistrainError, SchedulerError
from distrain.runs.folder import RunFolder
from launcher.commands.status import StageStatus, run_status, with_queue_note
from launcher.run_files import all_runs, last_change_ns, name_of
from launcher.text import WIDTH, table

if TYPE_CHECKING:
    from launcher.backends.slurm.client import JobInfo, Slurm

HEADER = ("RUN", "STATE", "STAGE", "STEP", "CHANGED (UTC)", "NOTE")


@dataclass(frozen=True)
class RunLine:
    """One run."""

    run: str
    state: str
    """Of the stage that is next or at work: as in ``status``, or ``queued``; ``done``: of all;
    ``unreadable``: its recipe is not one of this version."""
    stage: str
    """The stage that is next or at work; empty when all are done."""
    step: int
    total_steps: int | None
    jobs: tuple[str, ...]
    """Ids of its jobs that Slurm has queued or running."""
    changed: str
    """When something last happened, UTC."""
    note: str

    def to_json(self) -> dict[str, Any]:
        """Form of ``list --json``."""
        return asdict(self)


def list_lines(slurm: "Slurm | None" = None) -> list[RunLine]:
    """Return a line for each run of the runs folder, the latest first."""
    queue = _Queue(slurm)
    return [_line(run, queue) for run in all_runs()]


def runs_table(lines: list[RunLine]) -> str:
    """Write the lines as a table."""
    rows = [
        (
            line.run,
            line.state,
            line.stage or "-",
            f"{line.step:,}/{line.total_steps:,}" if line.total_steps else "-",
            line.changed[:16].replace("T", " "),
            line.note,
        )
        for line in lines
    ]
    return table(HEADER, rows, WIDTH)


class _Queue:
    """What Slurm has of this user, asked for once and only if a run was ever submitted."""

    def __init__(self, slurm: "Slurm | None") -> None:
        self._slurm = slurm
        self._jobs: dict[str, JobInfo] | None = None
        self.problem = ""

    def recorded(self, run: RunFolder) -> dict[str, str]:
        """Return the ids of a run's jobs by name, if Slurm said which of them are there."""
        from launcher.backends.slurm.queue import recorded_jobs

        return {} if self.problem else recorded_jobs(run)

    def jobs_of(self, run: RunFolder) -> "dict[str, tuple[str, JobInfo]]":
        """Return id and state of the jobs of a run that have not ended, by their names."""
        from launcher.backends.slurm.queue import recorded_jobs

        recorded = recorded_jobs(run)
        if not recorded:
            return {}
        jobs = self._asked()
        return {name: (job, jobs[job]) for name, job in recorded.items() if job in jobs}

    def _asked(self) -> "dict[str, JobInfo]":
        from launcher.backends.slurm.client import Slurm

        if self._jobs is None:
            try:
                self._jobs = (self._slurm or Slurm()).queue()
            except SchedulerError as error:
                self._jobs, self.problem = {}, f"Slurm: {error.found}"
        return self._jobs


def _line(run: RunFolder, queue: _Queue) -> RunLine:
    changed = datetime.fromtimestamp(last_change_ns(run) / 1e9, UTC).isoformat(timespec="seconds")
    name = run.root.name
    try:
        rows = run_status(run, read_resolved(run.resolved))
    except (DistrainError, ValueError) as error:
        note = str(error).splitlines()[0]
        return RunLine(name, "unreadable", "", 0, None, (), changed, note)
    jobs = queue.jobs_of(run) if any(row.state != "done" for row in rows) else {}
    known = {job_name: info for job_name, (_, info) in jobs.items()}
    recorded = queue.recorded(run)
    row = _at_work([with_queue_note(run, row, known, recorded.get(row.stage)) for row in rows])
    if row is None:
        return RunLine(name, "done", "", 0, None, (), changed, "")
    # A job that comes back to the queue left its stage "running".
    is_queued = bool(jobs) and not any(info.state == "RUNNING" for info in known.values())
    state = "queued" if is_queued and row.state != "failed" else row.state
    ids = tuple(dict.fromkeys(job for job, _ in jobs.values()))
    note = row.note or (queue.problem if run.jobs.exists() else "")
    if row.error is not None:  # which is too long for a line
        note = f"why: distrain status {name_of(run)}"
    return RunLine(name, state, row.stage, row.step, row.total_steps, ids, changed, note)


def _at_work(rows: list[StageStatus]) -> StageStatus | None:
    """Return the stage that says most about a run: it failed, runs, or is the next."""
    for word in ("failed", "running"):
        for row in rows:
            if row.state == word:
                return row
    return next((row for row in rows if row.state != "done"), None)
