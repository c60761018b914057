"""Where a run stands, from its files alone: works during the run, after it, and elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from distrain.config.reading.load import read_resolved
from distrain.config.recipe import Recipe, TrainStage
from distrain.config.tasks import TaskForm, task_form
from distrain.runs.certificates import certificate_text
from distrain.runs.conclusion import conclude_all
from distrain.runs.failures import count_restarts, failure_of
from distrain.runs.figures import number_text
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.incidents import describe_incident, read_incidents
from distrain.runs.json_lines import last_records, read_records
from distrain.runs.lock import is_held
from distrain.runs.phases import prepare_progress
from distrain.runs.products import BEST, read_product
from distrain.runs.records import STEP, TRAIN, is_validation, read_json, read_state
from distrain.runs.strikes import describe_straggler, describe_strikes, read_strikes
from launcher.backends.backend import BACKENDS, backend_of, is_on_one_machine, jobs_of_runs
from launcher.backends.protocol import Backend, JobState
from launcher.run_files import name_of
from launcher.text import short_count, short_duration, table
from launcher.watch.progress import total_steps

QUIET_S = 10.0
"""After which the age of the last step is worth a note."""
MAX_METRICS = 3
"""Of a stage in the table; JSON has them all."""


@dataclass(frozen=True)
class StageStatus:
    """One line of ``distrain status``."""

    run: str
    stage: str
    kind: str
    state: str
    """As in ``state.json``, or ``waiting`` before the first start, or ``interrupted``: it says
    running, but no process of this machine holds the stage; no error was met."""
    step: int
    total_steps: int | None
    loss: float | None
    """The trained metric of the last step, under whatever name."""
    tokens_per_sec: float | None
    eta_s: float | None
    restarts: int
    """After failures; neither the user's own resumes nor yields count."""
    note: str
    failed_at: str | None = None
    """Of a stage that failed for good, as are ``error`` and ``remedy``."""
    error: str | None = None
    remedy: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    """All metrics of the last step, by name."""
    conclusions: tuple[str, ...] = ()
    """What follows from its answers beside the base's, once it is done."""
    last_step_age_s: float | None = None
    """Since the last step of a stage that runs, by this machine's clock."""
    incidents: tuple[str, ...] = ()
    """Ranks that had come to a halt, a line each, the oldest first."""
    certificate: str | None = None
    """What came of comparing the last resume with what was before it."""
    nodes: tuple[str, ...] = ()
    """What is held against nodes, and which are left out for it, a line each."""

    def to_json(self) -> dict[str, Any]:
        """Form of ``status --json``."""
        return asdict(self)


def run_status(run: RunFolder, recipe: Recipe) -> list[StageStatus]:
    """Return the status of every stage, in the order of the recipe."""
    events = list(read_records(run.events))
    return [_stage_status(run, recipe, name, events) for name in recipe.stages]


def with_queue_notes(
    run: RunFolder, rows: list[StageStatus], backends: Mapping[str, Backend] = BACKENDS
) -> list[StageStatus]:
    """Add what a scheduler says about the jobs of a run, if it was ever submitted."""
    (found,) = jobs_of_runs([run], backends)
    if found.problem:
        return [replace(row, note=row.note or found.problem) for row in rows]
    return [with_queue_note(run, row, found.jobs) for row in rows]


def with_queue_note(run: RunFolder, row: StageStatus, jobs: Sequence[JobState]) -> StageStatus:
    """Tell of the first of a stage's jobs that has not ended.

    Args:
        run: Folder of the run.
        row: Of the stage.
        jobs: Of the run, those of a stage in the order in which they run.
    """
    own = [job for job in jobs if job.stage == row.stage]
    job = next((job for job in own if job.is_live), None)
    if job is None:
        last = next((job for job in own if not job.phase), None)
        if row.state != "running" or last is None:
            return row
        note = f"job {last.job} is {last.word}; distrain resume {name_of(run)}"
        return replace(row, state="interrupted", note=note)
    if not job.phase:
        return replace(row, note=job.note or row.note)
    if row.state == "failed":
        return row  # those behind it find that out when they begin
    if job.is_running:
        return replace(row, state="running", note=f"{job.phase}: {row.note or 'begins'}")
    return replace(row, note=f"{job.phase} {job.note}" if job.note else row.note)


def has_ended(run: RunFolder) -> bool:
    """Return whether nothing is at work on a run, and nothing queued will be."""
    recipe = read_resolved(run.resolved)
    rows = run_status(run, recipe)
    if is_held(run.lock) or any(row.state == "running" for row in rows):
        return False
    if not backend_of(recipe.launch).is_queued:
        return True
    # Jobs wait for each other: one that is next, or comes back, has no process now.
    words = {row.state for row in rows}
    return words == {"done"} or bool(words & {"failed", "stopped", "interrupted"})


def status_table(rows: list[StageStatus]) -> str:
    """Write the status as a table; below it what was found out, and why stages failed."""
    header = ("RUN", "STAGE", "STATE", "STEP", "LOSS", "TOK/S", "ETA", "RESTARTS", "NOTE")
    failures = [_failure_text(row) for row in rows if row.error is not None]
    found = [f"{row.stage}: {text}" for row in rows for text in row.conclusions]
    found += [f"{row.stage}: {row.incidents[-1]}" for row in rows if row.incidents]
    found += [f"{row.stage}: {row.certificate}" for row in rows if row.certificate]
    found += [f"{row.stage}: {text}" for row in rows for text in row.nodes]
    lines = "\n".join([table(header, [_cells(row) for row in rows]), *found])
    return "\n\n".join([lines, *failures])


def _stage_status(
    run: RunFolder, recipe: Recipe, name: str, events: list[dict[str, Any]]
) -> StageStatus:
    folder = run.stage(name)
    state = read_state(folder)
    records = last_records(folder.metrics)
    steps = [record for record in records if not is_validation(record)]
    last = steps[-1] if steps else {}
    task = _task_of(recipe, name)
    metrics = {metric.name: last.get(f"{TRAIN}{metric.name}") for metric in task.metrics}
    total = total_steps(recipe, name, run)
    failure = failure_of(folder)
    if failure is not None and _starts_again(run, recipe, name):
        failure = None
    word, note = ("failed", "") if failure else _word(run, recipe, name)
    step = int(last.get(STEP, state["step"] if state else 0))
    durations = [float(record["perf/step_time_s"]) for record in steps]
    is_running = word == "running"
    age_s = _age_s(str(last["time"])) if last else None
    if is_running and age_s is not None and age_s > QUIET_S:
        note = f"last step {short_duration(age_s)} ago" + (f"; {note}" if note else "")
    has_eta = is_running and total is not None and bool(durations)
    return StageStatus(
        run=run.root.name,
        stage=name,
        kind=recipe.stages[name].kind,
        state=word,
        step=step,
        total_steps=total,
        loss=metrics[task.trained.name],
        tokens_per_sec=last.get("perf/tokens_per_sec") if is_running else None,
        eta_s=sum(durations) / len(durations) * ((total or 0) - step) if has_eta else None,
        restarts=count_restarts(events, name),
        note=note,
        failed_at=failure.time or None if failure else None,
        error=failure.error if failure else None,
        remedy=failure.remedy or None if failure else None,
        metrics=metrics if last else {},
        conclusions=_conclusions(folder, task) if word == "done" else (),
        last_step_age_s=age_s if is_running else None,
        incidents=tuple(
            f"incident {found['number']}: {describe_incident(found)}"
            for found in read_incidents(folder)
        ),
        certificate=certificate_text(folder),
        nodes=tuple(_node_notes(run, name, events)),
    )


def _node_notes(run: RunFolder, stage: str, events: list[dict[str, Any]]) -> list[str]:
    notes = describe_strikes(s for s in read_strikes(run.strikes) if s.stage == stage)
    own = [event for event in events if event.get("stage") == stage]
    excluded = [event for event in own if event.get("event") == "nodes_excluded"]
    if excluded:
        notes.append(f"job {excluded[-1].get('job')} gets no more of {excluded[-1].get('nodes')}")
    for event in own:
        if event.get("event") == "node_replaced":
            notes.append(f"spare {event.get('spare')} has the place of {event.get('node')}")
        elif event.get("event") == "spare_lost":
            notes.append(f"spare {event.get('node')} is lost")
    late = [event for event in own if event.get("event") == "straggler"]
    if late:
        notes.append(describe_straggler(late[-1]))
    return notes


def _age_s(time: str) -> float:
    # Another machine's clock may be ahead.
    then = datetime.fromisoformat(time.replace("Z", "+00:00"))
    return max(0.0, (datetime.now(UTC) - then).total_seconds())


def _conclusions(folder: StageFolder, task: TaskForm) -> tuple[str, ...]:
    result = read_json(folder.result) or {}
    return conclude_all(result, task.trained.short_unit)


def _task_of(recipe: Recipe, name: str) -> TaskForm:
    stage = recipe.stages[name]
    return task_form(stage.training.task if isinstance(stage, TrainStage) else None)


def _starts_again(run: RunFolder, recipe: Recipe, name: str) -> bool:
    """Return whether a launcher at work has taken the error away and the stage has yet to begin."""
    is_here = is_on_one_machine(recipe.launch)
    return is_here and not run.stage(name).error.exists() and is_held(run.lock)


def _word(run: RunFolder, recipe: Recipe, name: str) -> tuple[str, str]:
    folder = run.stage(name)
    state = read_state(folder)
    if state is None:
        return "waiting", _ranges_note(run, recipe, name)
    word = state["state"]
    if word == "failed":
        return "running", "starts again"
    if word == "running" and is_on_one_machine(recipe.launch) and not is_held(folder.lock):
        if is_held(run.lock):
            return "running", "starts again"
        return "interrupted", f"no process; distrain resume {name_of(run)}"
    notes = {
        "stopped": f"work is left; distrain resume {name_of(run)}",
        "done": _best_note(folder),
        "running": _ranges_note(run, recipe, name),
    }
    return word, notes.get(word, "")


def _best_note(folder: StageFolder) -> str:
    best = read_product(folder, BEST)
    return "" if best is None else f"best: step {best.step}"


def _ranges_note(run: RunFolder, recipe: Recipe, name: str) -> str:
    """Say how far a prepare stage is, which has no steps."""
    if recipe.stages[name].kind != "prepare":
        return ""
    progress = prepare_progress(run.stage(name))
    return "" if progress is None else str(progress)


def _failure_text(row: StageStatus) -> str:
    when = f" at {row.failed_at[:19].replace('T', ' ')} UTC" if row.failed_at else ""
    lines = [f"{row.stage} failed{when}: {row.error}", *([row.remedy] if row.remedy else [])]
    return "\n".join(lines)


def _metrics_text(row: StageStatus) -> str:
    """Write the metrics of the last step: a lone loss without its name, as the column has it.

    Of many, as those of preferences, what is trained alone: a line must fit on a screen.
    """
    if row.metrics.keys() <= {"loss"} or len(row.metrics) > MAX_METRICS:
        return "-" if row.loss is None else f"{row.loss:.3f}"
    return ", ".join(f"{name} {number_text(value, '.3f')}" for name, value in row.metrics.items())


def _cells(row: StageStatus) -> tuple[str, ...]:
    position = f"{row.step:,}/{row.total_steps:,}" if row.total_steps else f"{row.step or '-'}"
    return (
        row.run,
        row.stage,
        row.state,
        position,
        _metrics_text(row),
        "-" if row.tokens_per_sec is None else short_count(row.tokens_per_sec),
        "-" if row.eta_s is None else short_duration(row.eta_s),
        str(row.restarts),
        row.note or ("" if row.error is None else "see below"),
    )
