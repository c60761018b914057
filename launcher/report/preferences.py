"""How far a model tells chosen from rejected answers, as tables. Pure."""

from collections.abc import Mapping

from distrain.config.tasks import PREFERENCE, TASK_FORMS
from distrain.runs.figures import number_text
from launcher.report.data import number
from launcher.report.parts import Table

PAIR_METRICS = TASK_FORMS[PREFERENCE].metrics


def reward_tables(title: str, scores: Mapping[str, object]) -> list[Table]:
    """Show the metrics of pairs by name, as far as they were measured."""
    rows = [
        (metric.name.replace("_", " "), metric.full_unit, number_text(value, metric.form))
        for metric in PAIR_METRICS
        if (value := number(scores.get(metric.name))) is not None
    ]
    if not rows:
        return []
    note = "Rewards are against the model before the stage, which finds no margin by itself."
    return [Table(title, ("", "unit", ""), tuple(rows), note, text_columns=2)]
