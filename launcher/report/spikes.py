"""Spikes of a stage in the report: what they were, what followed, and how to see what they read."""

from launcher.report.data import Fields, RunData, StageRecords, number
from launcher.report.parts import Figure, Table
from launcher.report.text import UNKNOWN, count, integer, significant, visible

SHOWN = 50
"""Spikes listed; a stage whose loss jumped may have hundreds."""
WORDS = {"reported": "step applied", "skipped": "step not applied", "rewound": "rewound"}


def spike_figures(stage: StageRecords, run: RunData) -> list[Figure]:
    """How many there were, if any."""
    spikes = _events(stage, run, "spike")
    rewinds = _events(stage, run, "rewound")
    if not spikes:
        return []
    note = count(len(rewinds), "rewind") if rewinds else "loss or gradient norm"
    return [Figure("spikes", f"{len(spikes):,}", note)]


def spike_tables(stage: StageRecords, run: RunData) -> list[Table]:
    """The last spikes, a row each."""
    spikes = _events(stage, run, "spike")
    if not spikes:
        return []
    rewinds = {event.get("from_step"): event for event in _events(stage, run, "rewound")}
    rows = tuple(_row(spike, rewinds.get(spike.get("step"))) for spike in spikes[-SHOWN:])
    step = f"{number(spikes[-1].get('step')) or 0:.0f}"
    note = f"What a step read: distrain data seen {run.name} --stage {stage.name} --step {step}"
    if len(rows) < len(spikes):
        note += f". The first {len(spikes) - len(rows):,} are in events.jsonl only"
    header = ("what", "followed by", "step", "value", "usual", "limit", "steps left out")
    return [Table("Spikes", header, rows, note, text_columns=2)]


def _row(spike: Fields, rewound: Fields | None) -> tuple[str, ...]:
    action = str(spike.get("action"))
    done, left_out = WORDS.get(action, visible(action, 20)), "none"
    if action == "skipped":
        left_out = integer(number(spike.get("step")))
    if action == "rewound" and rewound is not None:
        first, last = (integer(number(rewound.get(f"{end}_step"))) for end in ("first", "last"))
        left_out = f"{first} to {last}"
        done = f"back to step {integer(number(rewound.get('step')))}"
    figures = (significant(number(spike.get(name))) for name in ("value", "median", "limit"))
    metric = visible(str(spike.get("metric", UNKNOWN)), 20)
    return (metric, done, integer(number(spike.get("step"))), *figures, left_out)


def _events(stage: StageRecords, run: RunData, kind: str) -> list[Fields]:
    return [e for e in run.events if e["event"] == kind and e["stage"] == stage.name]
