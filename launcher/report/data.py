"""What the report knows of a run: everything its folder holds, read without trusting any of it.

A report is asked for when something went wrong, so a missing or damaged file costs its own part of
the page and is named there, never the page.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from distrain.config.tasks import TaskForm, task_form
from distrain.runs.failures import Failure
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import STEP, is_validation, read_json

Fields = dict[str, Any]
Value = TypeVar("Value")
Outcome = Literal["done", "stopped", "failed", "lost", "running"]

ENDS: dict[str, Outcome] = {"finished": "done", "stopped": "stopped", "failed": "failed"}
EXAMPLES_KEPT = 3
"""Rejected documents of each source and reason that are held; a file may name many."""


@dataclass(frozen=True)
class Attempt:
    """One start of a stage; ``start_s`` and ``end_s`` in seconds since the epoch."""

    stage: str
    number: int
    start_s: float
    end_s: float
    outcome: Outcome
    """``lost``: it left no word of its end, as a killed process does."""


@dataclass
class StageRecords:
    """One stage, as far as it came."""

    name: str
    kind: str = "unknown"
    state: str = "waiting"
    settings: Fields = field(default_factory=dict)
    """Its part of the resolved recipe."""
    last_step: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    steps: list[Fields] = field(default_factory=list)
    """Step records, in order."""
    scores: list[Fields] = field(default_factory=list)
    """Validation records, in order."""
    result: Fields = field(default_factory=dict)
    failure: Failure | None = None
    """Why it failed for good."""
    corpus: Fields = field(default_factory=dict)
    """Of prepare: counts, there before the stage is done."""
    rejections: list[Fields] = field(default_factory=list)
    """Of prepare and sft: examples, the first few of each source and reason."""
    examples: list[Fields] = field(default_factory=list)
    """Of sft: a few, with what is trained of them."""
    samples: list[Fields] = field(default_factory=list)
    """What the model wrote to fixed prompts, in order."""
    data: Fields = field(default_factory=dict)
    """Of pretrain and sft: which samples each step reads."""
    built_on: Fields = field(default_factory=dict)
    """What its model was made from: by stage, the checkpoint that stood for it."""

    @property
    def task(self) -> TaskForm:
        """What it measures; ``causal_lm`` where the recipe cannot be read."""
        return task_form(fields(self.settings.get("training")).get("task"))


@dataclass
class RunData:
    """A run, as far as it came."""

    name: str
    stages: list[StageRecords] = field(default_factory=list)
    events: list[Fields] = field(default_factory=list)
    recipe: str = ""
    environment: Fields = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)
    """Files that could not be read, and why."""


def read_run(run: RunFolder) -> RunData:
    """Read all that the report shows; a run that has not begun gives an empty one."""
    data = RunData(run.root.resolve().name)
    data.events = [record for record in _lines(run.events, data) if _is_event(record)]
    for path in (run.resolved, run.recipe):
        data.recipe = data.recipe or _guarded(path, data, _read_text) or ""
    data.environment = _guarded(run.environment, data, read_json) or {}
    stages = _recipe_stages(data)
    for name in _stage_names(run, data, stages):
        data.stages.append(_read_stage(run, name, stages.get(name, {}), data))
    return data


def seconds(record: Fields) -> float | None:
    """Read the time of a record, in seconds since the epoch."""
    try:
        return datetime.fromisoformat(record["time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def number(value: object) -> float | None:
    """Pass a finite number on; anything else is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def fields(value: object) -> Fields:
    """Pass a JSON object on; anything else is an empty one."""
    return value if isinstance(value, dict) else {}


def _read_stage(run: RunFolder, name: str, settings: Fields, data: RunData) -> StageRecords:
    folder = run.stage(name)
    state = _guarded(folder.state, data, read_json) or {}
    state_word, failure = str(state.get("state", "waiting")), None
    error = _guarded(folder.error, data, read_json) or fields(state.get("error"))
    if error or state_word == "failed":
        state_word, failure = "failed", Failure.read(error)
    stage = StageRecords(
        name,
        kind=str(settings.get("kind", "unknown")),
        state=state_word,
        settings=settings,
        last_step=int(number(state.get("step")) or 0),
        result=_guarded(folder.result, data, read_json) or {},
        failure=failure,
        corpus=_guarded(folder.corpus, data, read_json) or {},
        rejections=_first_of_each(_lines(folder.rejections, data)),
        examples=list(_lines(folder.examples, data)),
        samples=list(_lines(folder.samples, data)),
        data=_guarded(folder.data, data, read_json) or {},
        built_on=fields(_guarded(folder.built_on, data, read_json)),
    )
    for record in _lines(folder.metrics, data):
        if number(record.get(STEP)) is None:
            continue
        (stage.scores if is_validation(record) else stage.steps).append(record)
    if stage.kind == "unknown" and stage.steps:
        stage.kind = "sft" if "eval_loss_base" in stage.result else "pretrain"
    if stage.steps:
        stage.last_step = max(stage.last_step, int(stage.steps[-1][STEP]))
    stage.attempts = _attempts(stage, data.events)
    return stage


def _attempts(stage: StageRecords, events: list[Fields]) -> list[Attempt]:
    """Tell the starts of a stage apart, and how each of them ended."""
    own = [event for event in events if event["stage"] == stage.name]
    signs = [*own, *stage.steps, *stage.scores]  # every record is a sign of life
    times: dict[int, list[float]] = {}
    outcomes: dict[int, Outcome] = {}
    for record in signs:
        attempt, time_s = number(record.get("attempt")), seconds(record)
        if attempt is None or time_s is None:
            continue
        times.setdefault(int(attempt), []).append(time_s)
        if record.get("event") in ENDS:
            outcomes[int(attempt)] = ENDS[record["event"]]
    last = max(times, default=0)
    if stage.state in ("running", "failed"):
        outcomes.setdefault(last, "running" if stage.state == "running" else "failed")
    return [
        Attempt(stage.name, attempt, min(span), max(span), outcomes.get(attempt, "lost"))
        for attempt, span in sorted(times.items())
    ]


def _recipe_stages(data: RunData) -> dict[str, Fields]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        recipe = YAML(typ="safe", pure=True).load(data.recipe)
    except YAMLError as error:
        data.damage.append(f"recipe: {str(error).splitlines()[0]}")
        return {}
    stages = recipe.get("stages") if isinstance(recipe, dict) else None
    if not isinstance(stages, dict):
        return {}
    return {str(name): stage for name, stage in stages.items() if isinstance(stage, dict)}


def _stage_names(run: RunFolder, data: RunData, stages: dict[str, Fields]) -> list[str]:
    """Order stages as the recipe does; then those that only left traces."""
    names = list(stages)
    traces = [event["stage"] for event in data.events]
    traces += [path.parent.name for path in sorted(run.root.glob("*/state.json"))]
    return list(dict.fromkeys(names + traces))


def _is_event(record: Fields) -> bool:
    return isinstance(record.get("event"), str) and isinstance(record.get("stage"), str)


def _first_of_each(records: Iterable[Fields]) -> list[Fields]:
    """Keep a few records of each source and reason; the file may hold any number."""
    found: dict[tuple[str, str], list[Fields]] = {}
    for record in records:
        key = (str(record.get("source")), str(record.get("reason")))
        kept = found.setdefault(key, [])
        if len(kept) < EXAMPLES_KEPT:
            kept.append(record)
    return [record for kept in found.values() for record in kept]


def _lines(path: Path, data: RunData) -> Iterator[Fields]:
    """Read a JSONL file; a line still being written is left out, a broken one is counted."""
    broken: list[int] = []
    try:
        yield from read_records(path, broken.append)
    except OSError as error:
        data.damage.append(f"{path.parent.name}/{path.name}: {error}")
    if broken:
        data.damage.append(
            f"{path.parent.name}/{path.name}: {len(broken)} lines are no JSON objects"
        )


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _guarded(path: Path, data: RunData, read: Callable[[Path], Value | None]) -> Value | None:
    if not path.exists():
        return None
    try:
        return read(path)
    except (OSError, ValueError) as error:
        data.damage.append(f"{path.parent.name}/{path.name}: {error}")
        return None
