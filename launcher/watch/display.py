"""Two displays of a running stage: a progress bar in a terminal, plain lines anywhere else."""

import os
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from distrain.config.tasks import TaskForm, form_of, number_text
from distrain.runs.records import EVAL, STEP, TRAIN
from launcher.text import short_count, short_duration
from launcher.watch.progress import Display, Extent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

EVENT_TEXT: dict[str, str] = {
    "resumed": "goes on after step {step}",
    "checkpoint": "checkpoint of step {step}",
    "checkpoint_failed": "checkpoint of step {step} could not be written: {reason}",
    "quarantined": "damaged checkpoint set aside: {reason}",
    "nonfinite": "step {step} not applied: loss or gradient is not finite",
    "early_stop": "no further improvement: stops at step {step}",
    "stop_requested": "asked to save and stop",
    "yield_requested": "asked to save and yield",
    "schedule_changed": "reads by other weights or batch size after step {step}",
    "sink_failed": "{sink} failed, training goes on: {reason}",
}
"""Events worth a line; the others are seen from what the launcher itself says."""
CAUSAL = form_of(None)
RATE_WINDOW = 20
"""Steps over which speed is averaged."""


class Pace:
    """Speed and time left, from the records of one attempt.

    Args:
        total_steps: Steps of the stage, where known.
    """

    def __init__(self, total_steps: int | None) -> None:
        self.total_steps = total_steps
        self._window: list[tuple[float, float, int]] = []  # seconds, tokens seen, step

    def add(self, record: dict[str, Any]) -> None:
        """Take a step record into account."""
        seconds = datetime.fromisoformat(record["time"]).timestamp()
        self._window.append((seconds, record["train/tokens_seen"], record[STEP]))
        del self._window[: -RATE_WINDOW - 1]

    def tokens_per_s(self, record: dict[str, Any]) -> float:
        """Return the mean speed of the window, pauses included, or that of the only step."""
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
    stage: str, record: dict[str, Any], pace: Pace, task: TaskForm = CAUSAL
) -> dict[str, str]:
    """Write the figures of a step, by column."""
    eta_s = pace.eta_s(record)
    mfu = record.get("perf/mfu")
    return {
        "step": f"{clock(record)} {stage} step {_position(record[STEP], pace.total_steps)}",
        "metrics": task.step_text(without(TRAIN, record)),
        "lr": f"lr {record['train/learning_rate']:.1e}",
        "grad": f"grad {number_text(record['train/grad_norm'], '.2f')}",
        "speed": f"{short_count(pace.tokens_per_s(record))} tok/s",
        "mfu": f"mfu {'?' if mfu is None else f'{100 * mfu:.1f}%'}",
        "mem": f"mem {number_text(record['memory/max_gib'], '.1f')} GiB",
        "eta": f"eta {'?' if eta_s is None else short_duration(eta_s)}",
    }


def step_line(stage: str, record: dict[str, Any], pace: Pace, task: TaskForm = CAUSAL) -> str:
    """Write a step in fixed columns."""
    return " | ".join(step_columns(stage, record, pace, task).values())


def validation_line(
    stage: str, record: dict[str, Any], total_steps: int | None, task: TaskForm = CAUSAL
) -> str:
    """Write a validation in fixed columns."""
    position = f"{clock(record)} {stage} step {_position(record[STEP], total_steps)}"
    return f"{position} | validation {task.validation_text(without(EVAL, record))}"


def without(prefix: str, record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that begin with ``prefix``, by the rest of their name."""
    return {
        name.removeprefix(prefix): value
        for name, value in record.items()
        if name.startswith(prefix)
    }


def event_line(stage: str, record: dict[str, Any]) -> str | None:
    """Write an event, or nothing for those that need no line."""
    text = EVENT_TEXT.get(record["event"])
    if text is None:
        return None
    known = {"step": "?", "reason": "see events", "sink": "a sink"} | record
    return f"{clock(record)} {stage} {text.format(**known)}"


def clock(record: dict[str, Any]) -> str:
    """Return the local time of a record, such as ``12:31:07``."""
    return datetime.fromisoformat(record["time"]).astimezone().strftime("%H:%M:%S")


class LineDisplay:
    """Plain lines: the first step, then one every ``logging_steps``, validations and events.

    Args:
        stage: Name of the stage.
        total_steps: Steps of the stage, where known.
        logging_steps: Steps between two lines.
        stream: Where the lines go.
        task: What is measured.
    """

    def __init__(
        self,
        stage: str,
        total_steps: int | None,
        logging_steps: int,
        stream: TextIO,
        task: TaskForm = CAUSAL,
    ) -> None:
        self._stage = stage
        self._task = task
        self._logging_steps = logging_steps
        self._stream = stream
        self._pace = Pace(total_steps)
        self._shown = 0

    def length(self, total_steps: int) -> None:
        """Take the number of steps into account."""
        self._pace.total_steps = total_steps

    def note(self, text: str) -> None:
        """Nothing: ``distrain status`` says it to those who ask."""

    def step(self, record: dict[str, Any]) -> None:
        """Show a step if its turn has come."""
        self._pace.add(record)
        number = record[STEP]
        is_due = number % self._logging_steps == 0 or number == self._pace.total_steps
        if is_due or not self._shown:
            self._say(step_line(self._stage, record, self._pace, self._task))
            self._shown += 1

    def validation(self, record: dict[str, Any]) -> None:
        """Show a validation."""
        self._say(validation_line(self._stage, record, self._pace.total_steps, self._task))

    def event(self, record: dict[str, Any]) -> None:
        """Show an event, if it is worth a line."""
        line = event_line(self._stage, record)
        if line is not None:
            self._say(line)

    def close(self) -> None:
        """Nothing to put back."""

    def _say(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class BarDisplay:
    """A bar with the latest figures; validations and events scroll above it.

    Args:
        extent: Where the attempt begins; a stage without steps has a spinner for a bar.
    """

    def __init__(self, extent: Extent) -> None:
        self._stage = extent.stage
        self._metrics = extent.task
        self._pace = Pace(extent.total_steps)
        self._progress = _make_bar() if extent.has_steps else _make_spinner()
        self._task: TaskID = self._progress.add_task(
            extent.stage, completed=extent.step, total=extent.total_steps, figures="starts"
        )
        self._has_moved = False
        self._progress.start()

    def length(self, total_steps: int) -> None:
        """Draw the bar to scale."""
        self._pace.total_steps = total_steps
        self._progress.update(self._task, total=total_steps)

    def note(self, text: str) -> None:
        """Show a text beside the spinner."""
        self._progress.update(self._task, figures=text)

    def step(self, record: dict[str, Any]) -> None:
        """Move the bar."""
        self._has_moved = True
        self._pace.add(record)
        columns = step_columns(self._stage, record, self._pace, self._metrics)
        figures = " | ".join(columns[name] for name in ("metrics", "lr", "speed", "eta"))
        self._progress.update(self._task, completed=record[STEP], figures=figures)

    def validation(self, record: dict[str, Any]) -> None:
        """Show a validation above the bar."""
        self._progress.console.print(
            validation_line(self._stage, record, self._pace.total_steps, self._metrics),
            markup=False,
        )

    def event(self, record: dict[str, Any]) -> None:
        """Show an event above the bar; one that resumes sets it back to its checkpoint."""
        if record["event"] == "resumed" and "step" in record:
            self._progress.update(self._task, completed=record["step"])
        line = event_line(self._stage, record)
        if line is not None:
            self._progress.console.print(line, markup=False)

    def close(self) -> None:
        """Draw the bar a last time, or erase one that never moved, and release the terminal."""
        if not self._has_moved:
            self._progress.live.transient = True
        self._progress.stop()


def display_factory(stream: TextIO = sys.stderr) -> Callable[[Extent], Display]:
    """Return what makes the display of a stage: a bar in a terminal, else lines on ``stream``."""
    fancy = stream.isatty() and os.environ.get("TERM") != "dumb" and "CI" not in os.environ

    def make(extent: Extent) -> Display:
        if fancy:
            return BarDisplay(extent)
        return LineDisplay(
            extent.stage, extent.total_steps, extent.logging_steps, stream, extent.task
        )

    return make


def _make_bar() -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    whole = Column(no_wrap=True)
    return Progress(
        TextColumn("{task.description}", table_column=whole),
        BarColumn(bar_width=12),  # the rest of 80 columns is for figures
        MofNCompleteColumn(table_column=whole),
        TextColumn("{task.fields[figures]}", table_column=whole),
        console=_console(),
        refresh_per_second=4,
    )


def _make_spinner() -> "Progress":
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
        console=_console(),
        refresh_per_second=4,
    )


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False)  # NO_COLOR is honoured by rich itself


def _position(step: int, total_steps: int | None) -> str:
    if total_steps is None:
        return f"{step:,}"
    total = f"{total_steps:,}"
    return f"{step:>{len(total)},}/{total}"
