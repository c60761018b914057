"""Steps and validations as lines on a screen: the runtime and the launcher use the same words."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from distrain.runs.figures import number_text, short_count, short_duration
from distrain.runs.records import EVAL, NOT_APPLIED, NUM_PADDING, STEP, TRAIN

RATE_WINDOW = 20
"""Steps over which speed is averaged."""


class MetricWords(Protocol):
    """Writes a task's metrics, which are given by name; ``config.tasks.TaskForm`` is one."""

    def step_text(self, values: Mapping[str, float | None]) -> str:
        """Write those of a step."""
        ...

    def validation_text(self, values: Mapping[str, float | None]) -> str:
        """Write those of a validation."""
        ...


class Pace:
    """Speed and time left, from the records of one attempt.

    Args:
        total_steps: Steps of the stage, where known.
    """

    def __init__(self, total_steps: int | None) -> None:
        self.total_steps = total_steps
        self._window: list[tuple[float, float, int]] = []  # seconds, input tokens, step
        self._padding = 0

    def add(self, record: dict[str, Any]) -> None:
        """Take a step record into account."""
        seconds = datetime.fromisoformat(record["time"]).timestamp()
        if self._window and record[STEP] <= self._window[-1][2]:
            self._window.clear()  # training went back
        # Older records know no padding: it counted as tokens in all their figures.
        self._padding += record.get(NUM_PADDING, 0)
        self._window.append((seconds, record["train/tokens_seen"] - self._padding, record[STEP]))
        del self._window[: -RATE_WINDOW - 1]

    def tokens_per_s(self, record: dict[str, Any]) -> float:
        """Return the mean speed of the window, or that of the only step.

        Pauses count, as those for a validation do: the time left is told by the same window.
        """
        (first_s, first_tokens, _), (last_s, last_tokens, _) = self._window[0], self._window[-1]
        if last_s <= first_s:
            return float(record["perf/tokens_per_sec"])
        return (last_tokens - first_tokens) / (last_s - first_s)

    def eta_s(self, record: dict[str, Any]) -> float | None:
        """Return the seconds to the last step, if the number of steps is known."""
        if self.total_steps is None:
            return None
        (first_s, _, first), (last_s, _, last) = self._window[0], self._window[-1]
        per_step = (
            (last_s - first_s) / (last - first) if last > first else record["perf/step_time_s"]
        )
        return float(per_step) * (self.total_steps - last)


def step_columns(
    stage: str, record: dict[str, Any], pace: Pace, task: MetricWords
) -> dict[str, str]:
    """Write the figures of a step, by column.

    Args:
        stage: Its name.
        record: Of the step.
        pace: Has taken the record into account.
        task: What is measured.
    """
    speed, eta_s = pace.tokens_per_s(record), pace.eta_s(record)
    # Of the speed that stands beside it, not of the one step.
    mfu = record.get("perf/mfu")
    rate = record["perf/tokens_per_sec"]
    share = mfu * speed / rate if mfu is not None and rate else None
    return {
        "step": f"{stage} step {position(record[STEP], pace.total_steps)}",
        "metrics": task.step_text(without(TRAIN, record)),
        "lr": _rate(record),
        "grad": f"grad {number_text(record['train/grad_norm'], '.2f')}",
        "speed": f"{short_count(speed):>5} tok/s",
        "mfu": f"mfu {'?' if share is None else f'{100 * share:.1f}%'}",
        "mem": f"mem {number_text(record['memory/max_gib'], '.1f')} GiB",
        "eta": f"eta {'?' if eta_s is None else short_duration(eta_s)}",
    }


def _rate(record: dict[str, Any]) -> str:
    """Write the learning rate; of a step that was not applied, in its place, why."""
    text = f"lr {record['train/learning_rate']:.1e}"
    reason = record.get(NOT_APPLIED)
    return text if reason is None else f"!{reason}".ljust(len(text))


def step_line(stage: str, record: dict[str, Any], pace: Pace, task: MetricWords) -> str:
    """Write a step in fixed columns; see ``step_columns``."""
    return " | ".join(step_columns(stage, record, pace, task).values())


def validation_line(
    stage: str, record: dict[str, Any], total_steps: int | None, task: MetricWords
) -> str:
    """Write a validation in fixed columns."""
    text = task.validation_text(without(EVAL, record))
    return f"{stage} step {position(record[STEP], total_steps)} | validation {text}"


def without(prefix: str, record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that begin with ``prefix``, by the rest of their name."""
    return {
        name.removeprefix(prefix): value
        for name, value in record.items()
        if name.startswith(prefix)
    }


def clock(record: dict[str, Any]) -> str:
    """Return the local time of a record, such as ``12:31:07``."""
    return datetime.fromisoformat(record["time"]).astimezone().strftime("%H:%M:%S")


def position(step: int, total_steps: int | None) -> str:
    """Write how far a stage is; steps of any number of digits end under each other."""
    if total_steps is None:
        return f"{step:,}"
    total = f"{total_steps:,}"
    return f"{step:>{len(total)},}/{total}"
