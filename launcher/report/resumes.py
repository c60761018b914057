"""Resumes of a stage in the report: what each was compared with, and how it came out."""

from launcher.report.data import RunData, StageRecords, number
from launcher.report.parts import Table
from launcher.report.text import UNKNOWN, integer, visible

SHOWN = 50
"""Resumes listed; a stage on a restless cluster may have thousands."""
WORDS = 160
KINDS = ("certified", "not_certified")


def resume_tables(stage: StageRecords, run: RunData) -> list[Table]:
    """The last ones, a row each."""
    events = [e for e in run.events if e["event"] in KINDS and e["stage"] == stage.name]
    if not events:
        return []
    rows = []
    for event in events[-SHOWN:]:
        found = event.get("found")
        differs = str(found[0]) if isinstance(found, list) and found else "nothing"
        texts = (event.get("state", UNKNOWN), event.get("again", UNKNOWN), differs)
        step = integer(number(event.get("step")))
        rows.append((*(visible(str(text), WORDS) for text in texts), step))
    bad = sum(event["event"] == "not_certified" for event in events)
    note = f"{len(events) - bad:,} of {len(events):,} went on as they were"
    header = ("after loading", "first steps", "what differs", "step")
    return [Table("Resumes", header, tuple(rows), note, text_columns=3)]
