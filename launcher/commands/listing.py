"""All runs, a line each: ``distrain list``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from distrain.config.reading.load import read_resolved
from distrain.errors import DistrainError
from distrain.runs.folder import RunFolder
from launcher.backends.backend import BACKENDS, jobs_of_runs
from launcher.backends.protocol import Backend, RunJobs
from launcher.commands.status import StageStatus, run_status, with_queue_note
from launcher.run_files import all_runs, last_change_ns, name_of
from launcher.text import WIDTH, table

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
    """Ids of its jobs that a scheduler has queued or running."""
    changed: str
    """When something last happened, UTC."""
    note: str

    def to_json(self) -> dict[str, Any]:
        """Form of ``list --json``."""
        return asdict(self)


def list_lines(backends: Mapping[str, Backend] = BACKENDS) -> list[RunLine]:
    """Return a line for each run of the runs folder, the latest first."""
    runs = [(run, _rows_of(run)) for run in all_runs()]
    asked = [run for run, rows in runs if _is_unfinished(rows)]
    jobs = dict(zip((run.root for run in asked), jobs_of_runs(asked, backends), strict=True))
    return [_line(run, rows, jobs.get(run.root, RunJobs())) for run, rows in runs]


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


def _rows_of(run: RunFolder) -> list[StageStatus] | str:
    """Return the status of each stage, or why it cannot be told."""
    try:
        return run_status(run, read_resolved(run.resolved))
    except (DistrainError, ValueError) as error:
        return str(error).splitlines()[0]


def _is_unfinished(rows: list[StageStatus] | str) -> bool:
    return not isinstance(rows, str) and any(row.state != "done" for row in rows)


def _line(run: RunFolder, rows: list[StageStatus] | str, found: RunJobs) -> RunLine:
    changed = datetime.fromtimestamp(last_change_ns(run) / 1e9, UTC).isoformat(timespec="seconds")
    name = run.root.name
    if isinstance(rows, str):
        return RunLine(name, "unreadable", "", 0, None, (), changed, rows)
    row = _at_work([with_queue_note(run, row, found.jobs) for row in rows])
    if row is None:
        return RunLine(name, "done", "", 0, None, (), changed, "")
    live = [job for job in found.jobs if job.is_live]
    # A job that comes back to the queue left its stage "running".
    is_queued = bool(live) and not any(job.is_running for job in live)
    state = "queued" if is_queued and row.state != "failed" else row.state
    ids = tuple(dict.fromkeys(job.job for job in live))
    note = row.note or found.problem
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
