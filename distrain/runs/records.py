"""The records that a run leaves behind, and how they are written so that a crash tears none.

Field names of ``metrics.jsonl`` are those that W&B and the report show.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

from distrain.runs.durable import write_text
from distrain.runs.folder import RunFolder, StageFolder

Record = Mapping[str, Any]

StageStatus = Literal["running", "done", "stopped", "failed"]


class StageError(TypedDict):
    """``<stage>/error.json``: why the stage failed for good; another attempt would, too."""

    exit_code: int
    message: str
    remedy: str
    """The end of the message; missing, like the time, in a record of an older version."""
    time: str


class StageState(TypedDict):
    """``<stage>/state.json``: written by the runtime, read by the launcher and a job's supervisor.

    ``failed`` is also written by whoever starts the stage, when it is given up.
    """

    state: StageStatus
    attempt: int
    """Starts of this stage so far, counted from 1."""
    step: int
    """Last committed step (0 for stages without steps)."""
    requeue: bool
    """Work is left and nobody asked to stay ended: start the stage again."""
    time: str
    error: NotRequired[StageError]
    """Of a stage that failed."""


class StageData(TypedDict):
    """``<stage>/data.json``: what each step reads, by the newest attempt; written as it begins.

    Packing and order are in the recipe and cannot change; the fingerprints cover them.
    """

    time: str
    attempt: int
    step: int
    """Steps made before this attempt; a change of the schedule takes effect there."""
    max_steps: int
    seed: int
    sequence_length: int
    schedule: list[dict[str, Any]]
    """``schedule.Segment``, from the first step of the stage on."""
    sources: dict[str, str]
    """Fingerprint of each source, as in a checkpoint."""
    computed_on: NotRequired[dict[str, Any]]
    """``ComputedOn`` of the certificate, which older versions did not write."""
    validation: NotRequired[dict[str, Any]]
    """Which held-out samples are measured; see ``held_out.Choice``. Older versions had none."""
    truncation: NotRequired[Literal["refuse", "drop", "cut", "cut_left"]]
    """Of sft, as what follows: what was done with answers that do not fit into a sample."""
    packing: NotRequired[Literal["none", "best_fit"]]
    positions: NotRequired[Literal["needed", "all"]]
    """Which positions of a row are computed; older versions, which wrote nothing, computed all."""
    rows: NotRequired[dict[str, dict[str, float]]]
    """By split: ``examples``, ``samples``, and the shares ``padding`` and ``trained``."""
    long_answers: NotRequired[dict[str, int]]
    """By split."""
    cut_prompts: NotRequired[dict[str, int]]
    leak_probe: NotRequired[dict[str, float]]
    """Of packed rows: how far an example's tokens moved the losses of others, before step 1."""
    effects: NotRequired[dict[str, dict[str, int]]]
    """By split and effect: examples that are not as they were given; see ``fitting``."""
    dropped_pairs: NotRequired[list[str]]
    """Where the examples come from that were left out; the first hundred."""


STEP = "train/global_step"
"""The field that counts a stage's updates, from 1; in every line of ``metrics.jsonl``."""
TRAIN, EVAL = "train/", "eval/"
"""Before the names of a task's metrics, of a step and of a validation."""
HARNESS = "tasks/"
"""Before the names of what ``lm_eval`` measures at a validation: ``tasks/<task>/<metric>``."""
STEP_FIELDS = (
    STEP,
    "train/loss",  # causal_lm: nats per target token over the global batch; see ``config.tasks``
    "train/learning_rate",
    "train/grad_norm",  # before clipping
    "train/tokens_seen",  # positions since the start of the stage, padding included
    "train/applied",  # false: no rank applied the step, for a reason that NOT_APPLIED names
    "data/first_sample",  # global index of the first sample of the step
    "data/num_samples",
    "data/num_targets",  # target tokens of the global batch
    "data/batch_hash",  # sum of the hashes of the samples, modulo 2**32; ``datasets.Rows.digest``
    "perf/step_time_s",
    "perf/data_time_s",  # waiting for the loader
    "perf/tokens_per_sec",  # input tokens, without padding
    "perf/mfu",  # flops_per_token * tokens/s / (ranks * peak)
    "memory/max_gib",  # largest rank: device memory on a GPU, resident set on a CPU
)
NUM_PADDING = "data/num_padding"
"""Of a step whose rows are not full: their positions that hold no input. Records of older versions
have none, and counted padding as tokens in ``perf/``."""
NOT_APPLIED = "train/not_applied"
"""Of a step that was not applied, why: ``nonfinite``; ``spike``, skipped in its place; ``rewind``,
one of those that a rewind left out and that were not computed."""
EVAL_FIELDS = (STEP, "eval/loss", "eval/perplexity")
"""A line of ``metrics.jsonl`` holds ``time``, ``attempt`` and all of one of these two sets; a task
other than ``causal_lm`` has its own names in place of the losses and of perplexity. A validation of
several sources also has each metric of each source: ``eval/<metric>/<source>``. A step that
balances experts has ``train/balancing_loss``, too."""

EVENT_KINDS = frozenset({
    "submitted", "started", "resumed", "checkpoint", "checkpoint_failed", "quarantined",
    "nonfinite", "early_stop", "stop_requested", "yield_requested", "stopped", "restarted",
    "failed", "finished", "reopened", "skipped", "sink_failed", "schedule_changed",
    "rehearsed", "spike", "rewound", "hung", "certified", "not_certified",
    "watchdog_limit", "strike", "nodes_excluded", "node_unfit", "straggler",
    "node_replaced", "spare_lost", "no_mark",
})  # fmt: skip
"""``events.jsonl``: ``{"time", "event", "stage", "attempt", "step"?, ...}``."""


def is_validation(record: Record) -> bool:
    """Return whether a record of ``metrics.jsonl`` is that of a validation, not of a step."""
    return any(name.startswith(EVAL) for name in record)


def utc_now() -> str:
    """UTC, ISO 8601 with milliseconds: what every record's ``time`` holds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_text(value: object, indent: int | None = None) -> str:
    """Write JSON that any reader takes: a number that is not finite becomes null.

    The one writer of all records. Python's own would write ``NaN`` and ``Infinity``, which are no
    JSON.
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    """Replace NaN and infinities, at any depth, by the null that is written for them."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_record(path: Path, record: Record) -> None:
    """Append one JSON line in a single write, so that two writers never mix within a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json_text(record) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def append_event(path: Path, event: str, stage: str, **fields: Any) -> None:  # noqa: ANN401
    """Append one event, stamped with the time now.

    Raises:
        ValueError: ``event`` is not one of ``EVENT_KINDS``.
    """
    if event not in EVENT_KINDS:
        raise ValueError(f"unknown event {event!r}; add it to EVENT_KINDS")
    append_record(path, {"time": utc_now(), "event": event, "stage": stage, **fields})


def write_json(path: Path, value: object) -> None:
    """Replace a JSON file so that a reader, or a crash, sees the old one or the new one whole."""
    write_text(path, json_text(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; ``None`` if the file does not exist."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004  (the file is at fault, not an argument's type)
            f"{path}: found {type(value).__name__}; expected a JSON object"
        )
    return value


def read_state(folder: StageFolder) -> StageState | None:
    """Return what the runtime last wrote about the stage; ``None`` before its first start."""
    return cast("StageState | None", read_json(folder.state))


def is_done(run: RunFolder, stage: str) -> bool:
    """Return whether the stage's own record says that it is done."""
    state = read_state(run.stage(stage))
    return state is not None and state["state"] == "done"


def done_stages(run: RunFolder, names: Iterable[str]) -> frozenset[str]:
    """Return those of the stages ``names`` that are done, and so read their input no more."""
    return frozenset(name for name in names if is_done(run, name))
