"""A model beside its base, on the same examples: differences, their intervals, what follows."""

from distrain.config.tasks import TaskForm
from distrain.runs.conclusion import conclude
from launcher.report.data import Fields, fields, number
from launcher.report.parts import Table
from launcher.report.text import MINUS, UNKNOWN

DIFFERENCES = (
    ("gain", f"base {MINUS} model, own prompts"),
    ("prompt_gap", f"shuffled {MINUS} own prompts, model"),
    ("prompt_gap_base", f"shuffled {MINUS} own prompts, base"),
    ("prompt_gain", "model's of these two more than base's"),
)
"""As ``distrain.evaluation.comparison`` writes them."""


def comparison_tables(answers: Fields, form: TaskForm) -> list[Table]:
    """Differences with 95 % intervals; nothing of a version that computed none."""
    rows = []
    for name, title in DIFFERENCES:
        found = fields(answers.get(name))
        ends = [number(found.get(key)) for key in ("value", "low", "high")]
        if found:
            low, high = _signed(ends[1]), _signed(ends[2])
            rows.append((title, _signed(ends[0]), f"{low} to {high}"))
    if not rows:
        return []
    header = ("", form.trained.short_unit, "95 % interval")
    note = conclusion_of(answers, form)
    return [Table("What follows for answers", header, tuple(rows), note)]


def conclusion_of(answers: Fields, form: TaskForm) -> str:
    """Say in a sentence what follows; empty where nothing does."""
    found = conclude(answers, form.trained.short_unit)
    return "" if found is None else f"{found[0].upper()}{found[1:]}."


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.3f}".replace("-", MINUS)
