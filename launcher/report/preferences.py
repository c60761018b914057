"""How far a model tells chosen from rejected answers, as tables. Pure."""

from collections.abc import Mapping

from distrain.config.tasks import PREFERENCE, TASK_FORMS
from distrain.runs.conclusion import (
    LIKELIER,
    LIKELIER_BASE,
    LIKELIER_GAIN,
    REWARDS,
    conclude_pairs,
)
from distrain.runs.figures import number_text
from launcher.report.data import fields, number
from launcher.report.parts import Table
from launcher.report.text import MINUS, UNKNOWN

PAIR_METRICS = TASK_FORMS[PREFERENCE].metrics


LIKELIER_TITLES = {
    LIKELIER: "chosen answer is the likelier",
    LIKELIER_BASE: "the same, by the base",
    LIKELIER_GAIN: "model's less base's",
}


def interval_tables(preferences: Mapping[str, object]) -> list[Table]:
    """Show figures of pairs with 95 % intervals, beside the base's, and what follows."""
    intervals, rows = fields(preferences.get("intervals")), []
    titles = {name: name.replace("_", " ") for name in REWARDS} | LIKELIER_TITLES
    for name, title in titles.items():
        found = fields(intervals.get(name))
        ends = [number(found.get(key)) for key in ("value", "low", "high")]
        texts = [UNKNOWN if end is None else f"{end:.3f}".replace("-", MINUS) for end in ends]
        if found:
            rows.append((title, texts[0], f"{texts[1]} to {texts[2]}"))
    if not rows:
        return []
    said = conclude_pairs(preferences)
    note = "" if said is None else f"{said}."
    return [Table("What follows for pairs", ("", "per pair", "95 % interval"), tuple(rows), note)]


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
