"""The timeline of the report: attempts of every stage on one axis, waiting left out. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from launcher.report.charts import Label
from launcher.report.data import Attempt, Fields, RunData, number, seconds
from launcher.report.text import UNKNOWN, date_text, integer, short_duration

BREAK_SHARE = 0.04
"""Of the axis that a cut-out wait takes."""
SHORTEST_WAIT_S = 30.0
MIN_WIDTH = 0.4
"""Percent of the axis below which a bar could not be seen."""
ROUND_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
"""Distances between two ticks."""
EVENTS_SHOWN = 100
MARKED = {
    "quarantined": "checkpoint set aside",
    "reopened": "checkpoint made again",
    "checkpoint_failed": "checkpoint not written",
    "nonfinite": "step not applied",
    "spike": "spike",
    "rewound": "rewound",
    "schedule_changed": "other data or batch size",
    "hung": "ranks stood still",
    "watchdog_limit": "limit below a step",
    "no_mark": "busy without a mark",
    "strike": "strike against a node",
    "nodes_excluded": "nodes left out",
    "node_unfit": "node did not pass its check",
    "node_replaced": "a spare took a node's place",
    "spare_lost": "spare lost",
    "straggler": "the others wait for a rank",
    "sink_failed": "metrics copy given up",
    "early_stop": "early stop",
    "stop_requested": "stop asked for",
    "yield_requested": "yield asked for",
}
ROUTINE = {"checkpoint", "skipped"}
"""Events that are counted, not listed."""
SHOWN_FIELDS_FIRST = ("attempt", "step")
HIDDEN_FIELDS = {"time", "event", "stage", "pid"}


@dataclass(frozen=True)
class Bar:
    """One attempt, in percent of the axis."""

    at: float
    width: float
    outcome: str
    text: str


@dataclass(frozen=True)
class Row:
    """One stage."""

    stage: str
    bars: tuple[Bar, ...]
    marks: tuple[Label, ...]
    total: str


@dataclass(frozen=True)
class Timeline:
    """What the template draws."""

    rows: tuple[Row, ...]
    breaks: tuple[Label, ...]
    ticks: tuple[Label, ...]
    begin: str
    end: str


@dataclass(frozen=True)
class EventRow:
    """One line of the table of events."""

    time: str
    event: str
    stage: str
    details: str


class BusyAxis:
    """Time with the waits between attempts cut down, so that a night's pause hides nothing.

    Args:
        spans: Begin and end of every attempt, in seconds.
    """

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self._blocks = _merge(sorted(spans))
        busy = sum(end - start for start, end in self._blocks)
        self._scale = max(busy, 1e-3)
        self._break_s = BREAK_SHARE * self._scale
        self.total_s = self._scale + self._break_s * (len(self._blocks) - 1)
        self.busy_s = busy

    def percent(self, time_s: float) -> float:
        """Return the place of a moment; one inside a wait is put at the wait's end."""
        at = 0.0
        for start, end in self._blocks:
            if time_s <= end:
                return round(100 * (at + max(time_s - start, 0.0)) / self.total_s, 3)
            at += end - start + self._break_s
        return 100.0

    def breaks(self) -> list[Label]:
        """Return the waits, at their middle, with their length."""
        labels, at = [], 0.0
        for (start, end), (following, _) in zip(self._blocks, self._blocks[1:], strict=False):
            at += end - start
            middle = 100 * (at + self._break_s / 2) / self.total_s
            labels.append(Label(round(middle, 3), short_duration(following - end)))
            at += self._break_s
        return labels

    def ticks(self) -> list[Label]:
        """Return round amounts of working time; only where no wait was cut out."""
        if len(self._blocks) != 1:
            return []
        start = self._blocks[0][0]
        every = next((step for step in ROUND_S if step * 6 >= self.busy_s), ROUND_S[-1])
        return [
            Label(self.percent(start + tick), _round_duration(tick))
            for tick in range(0, int(min(self.busy_s, 20 * every)) + 1, every)
        ]


def build_timeline(run: RunData) -> Timeline | None:
    """Lay out the attempts of all stages; ``None`` for a run that has not begun."""
    attempts = [attempt for stage in run.stages for attempt in stage.attempts]
    if not attempts:
        return None
    axis = BusyAxis((attempt.start_s, attempt.end_s) for attempt in attempts)
    rows = tuple(
        Row(
            stage.name,
            tuple(_bar(attempt, axis) for attempt in stage.attempts),
            tuple(_marks(stage.name, run.events, axis)),
            _total(stage.attempts),
        )
        for stage in run.stages
    )
    return Timeline(
        rows,
        tuple(axis.breaks()),
        tuple(axis.ticks()),
        date_text(min(attempt.start_s for attempt in attempts)),
        date_text(max(attempt.end_s for attempt in attempts)),
    )


def _total(attempts: list[Attempt]) -> str:
    worked_s = sum(attempt.end_s - attempt.start_s for attempt in attempts)
    return short_duration(worked_s) if attempts else UNKNOWN


def event_rows(events: list[Fields]) -> tuple[list[EventRow], str]:
    """List the events that are not routine, the last ones if many; say what is left out."""
    listed = [event for event in events if event["event"] not in ROUTINE]
    shown = listed[-EVENTS_SHOWN:]
    checkpoints = sum(event["event"] == "checkpoint" for event in events)
    notes = []
    if len(listed) > len(shown):
        notes.append(f"The first {len(listed) - len(shown):,} events are in events.jsonl only.")
    if checkpoints:
        ends = "" if checkpoints == 1 else "s"
        notes.append(f"{checkpoints:,} committed checkpoint{ends} not listed.")
    rows = [
        EventRow(
            date_text(seconds(event)), event["event"].replace("_", " "), event["stage"], _say(event)
        )
        for event in shown
    ]
    return rows, " ".join(notes)


def _say(event: Fields) -> str:
    keys = [key for key in SHOWN_FIELDS_FIRST if event.get(key)]  # step 0: a stage without steps
    keys += [key for key in event if key not in HIDDEN_FIELDS and key not in SHOWN_FIELDS_FIRST]
    return ", ".join(f"{key.replace('_', ' ')} {_short(event[key])}" for key in keys)


def _short(value: object) -> str:
    whole = number(value)
    if whole is not None:
        return integer(whole) if whole == int(whole) else f"{whole:.4g}"
    text = str(value)
    return text if len(text) <= 300 else text[:299] + "…"


def _bar(attempt: Attempt, axis: BusyAxis) -> Bar:
    at, end = axis.percent(attempt.start_s), axis.percent(attempt.end_s)
    took = short_duration(attempt.end_s - attempt.start_s)
    text = f"{attempt.stage}, attempt {attempt.number}: {attempt.outcome}, {took}"
    width = max(end - at, MIN_WIDTH)
    return Bar(min(at, 100 - width), round(width, 3), attempt.outcome, text)


def _marks(stage: str, events: list[Fields], axis: BusyAxis) -> Iterable[Label]:
    for event in events:
        time_s = seconds(event)
        if event["stage"] == stage and event["event"] in MARKED and time_s is not None:
            yield Label(axis.percent(time_s), f"{MARKED[event['event']]} ({_say(event)})")


def _round_duration(duration_s: int) -> str:
    return short_duration(duration_s).removesuffix("00s").removesuffix("00m")


def _merge(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Join spans that touch, or whose wait is short beside the work."""
    busy = sum(end - start for start, end in spans)
    shortest = max(SHORTEST_WAIT_S, 2 * BREAK_SHARE * busy)
    blocks: list[tuple[float, float]] = []
    for start, end in spans:
        if blocks and start - blocks[-1][1] <= shortest:
            blocks[-1] = (blocks[-1][0], max(blocks[-1][1], end))
        else:
            blocks.append((start, end))
    return blocks
