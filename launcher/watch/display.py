"""Two displays of a running stage: a progress bar in a terminal, plain lines anywhere else."""

import os
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from distrain.config.tasks import TaskForm, task_form
from distrain.runs.records import STEP
from distrain.runs.step_line import Pace, clock, step_columns, step_line, validation_line
from launcher.watch.progress import Display, Extent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

EVENT_TEXT: dict[str, str] = {
    "resumed": "goes on after step {step}",
    "checkpoint": "checkpoint of step {step}",
    "checkpoint_failed": "checkpoint of step {step} could not be written: {reason}",
    "quarantined": "checkpoint set aside: {reason}",
    "nonfinite": "step {step} not applied: loss or gradient is not finite",
    "spike": "spike of {metric} at step {step}: {action}",
    "rewound": "back to step {step}; steps {first_step} to {last_step} are left out",
    "certified": "certified after step {step}: {state}; {again}",
    "not_certified": "NOT certified after step {step}: {found[0]}",
    "early_stop": "no further improvement: stops at step {step}",
    "stop_requested": "asked to save and stop",
    "yield_requested": "asked to save and yield",
    "schedule_changed": "reads by other weights or batch size after step {step}",
    "watchdog_limit": "{reason}",
    "no_mark": "{reason}",
    "sink_failed": "{sink} failed, training goes on: {reason}",
}
"""Events worth a line; the others are seen from what the launcher itself says."""
CAUSAL = task_form(None)


def event_line(stage: str, record: dict[str, Any]) -> str | None:
    """Write an event, or nothing for those that need no line."""
    text = EVENT_TEXT.get(record["event"])
    if text is None:
        return None
    known = {"reason": "see events", "sink": "a sink"} | record
    return f"{clock(record)} {stage} {text.format_map(defaultdict(lambda: '?', known))}"


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
            self._say(f"{clock(record)} {step_line(self._stage, record, self._pace, self._task)}")
            self._shown += 1

    def validation(self, record: dict[str, Any]) -> None:
        """Show a validation."""
        line = validation_line(self._stage, record, self._pace.total_steps, self._task)
        self._say(f"{clock(record)} {line}")

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
        figures = " | ".join(columns[name].strip() for name in ("metrics", "lr", "speed", "eta"))
        self._progress.update(self._task, completed=record[STEP], figures=figures)

    def validation(self, record: dict[str, Any]) -> None:
        """Show a validation above the bar."""
        line = validation_line(self._stage, record, self._pace.total_steps, self._metrics)
        self._progress.console.print(f"{clock(record)} {line}", markup=False)

    def event(self, record: dict[str, Any]) -> None:
        """Show an event above the bar; one that goes back to a checkpoint sets it back."""
        if record["event"] in ("resumed", "rewound") and "step" in record:
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
