"""What a training stage measured: figures and tables over the metrics that its task names."""

from collections.abc import Sequence

from distrain.config.tasks import Derived, Metric
from distrain.runs.records import EVAL, HARNESS, STEP, TRAIN
from launcher.report.corpus import NAME_CHARACTERS
from launcher.report.data import Fields, StageRecords, fields, number
from launcher.report.parts import Figure, Table
from launcher.report.text import UNKNOWN, integer, significant, visible

ERROR = "_stderr"
"""After a metric's name: the standard error of it."""


def values(records: Sequence[Fields], field: str) -> list[float]:
    """Collect the finite values of a field."""
    found = (number(record.get(field)) for record in records)
    return [value for value in found if value is not None]


def metric_figures(stage: StageRecords) -> list[Figure]:
    """Each metric of the task: of the last step, and of the last validation."""
    figures = []
    for metric in (*stage.task.metrics, *stage.task.validated):
        steps = values(stage.steps, f"{TRAIN}{metric.name}")
        if steps:
            note = f"last step, {metric.unit}" if metric.unit else "last step"
            figures.append(Figure(f"train {metric.name}", format(steps[-1], metric.form), note))
        scores = values(stage.scores, f"{EVAL}{metric.name}")
        if scores:
            is_trained = metric is stage.task.trained
            note = f"last; best {format(min(scores), metric.form)}" if is_trained else "last"
            text = format(scores[-1], metric.form)
            figures.append(Figure(f"validation {metric.name}", text, note))
    return figures


def trained_scores(stage: StageRecords) -> list[float]:
    """The trained metric of each validation."""
    return values(stage.scores, f"{EVAL}{stage.task.trained.name}")


def source_tables(stage: StageRecords) -> list[Table]:
    """Metrics of the held-out text of each source, where several are measured."""
    last, task = stage.scores[-1] if stage.scores else {}, stage.task
    metrics = (*task.metrics, *(m for m in task.validated if f"{EVAL}{m.name}" in last))
    samples = fields(fields(stage.data.get("validation")).get("samples"))
    before = f"{EVAL}{task.trained.name}/"
    rows = []
    for source in (key.removeprefix(before) for key in last if key.startswith(before)):
        found = {m.name: number(last.get(f"{EVAL}{m.name}/{source}")) for m in metrics}
        if found[task.trained.name] is None:
            continue
        shown = [
            *(_number(found[m.name], m.form) for m in metrics),
            *(significant(_computed(d, found[d.of])) for d in task.derived),
        ]
        rows.append((source, *shown, integer(number(samples.get(source)))))
    if not rows:
        return []
    columns = [*(heading(metric) for metric in metrics), *(d.name for d in task.derived)]
    header = ("source", *columns, "samples measured")
    return [Table("Validation by source", header, tuple(rows))]


def harness_tables(stage: StageRecords) -> list[Table]:
    """What tasks of ``lm_eval`` found while training: the first time, and the last one."""
    asked = [record for record in stage.scores if any(key.startswith(HARNESS) for key in record)]
    if not asked:
        return []
    first, last = asked[0], asked[-1]
    rows = []
    for key in (key for key in last if key.startswith(HARNESS) and not key.endswith(ERROR)):
        task, _, metric = key.removeprefix(HARNESS).rpartition("/")
        found = (first.get(key), last.get(key), last.get(f"{key}{ERROR}"))
        shown = (visible(part, NAME_CHARACTERS) for part in (task, metric))
        rows.append((*shown, *(significant(number(value)) for value in found)))
    steps = (f"step {integer(number(record.get(STEP)))}" for record in (first, last))
    header = ("task", "metric", *steps, "standard error")
    return [Table("Tasks of lm_eval", header, tuple(rows), text_columns=2)]


def asked_tables(stage: StageRecords) -> list[Table]:
    """What tasks of ``lm_eval`` found of the model that an ``evaluate`` stage measured."""
    rows = []
    for task, found in fields(stage.result.get("tasks")).items():
        figures = fields(found)
        for metric in (name for name in figures if not name.endswith(ERROR)):
            numbers = (figures[metric], figures.get(f"{metric}{ERROR}"))
            shown = (visible(part, NAME_CHARACTERS) for part in (task, metric))
            rows.append((*shown, *(significant(number(value)) for value in numbers)))
    header = ("task", "metric", "value", "standard error")
    return [Table("Tasks of lm_eval", header, tuple(rows), text_columns=2)] if rows else []


def _computed(derived: Derived, value: float | None) -> float | None:
    return None if value is None else number(derived.compute(value))


def heading(metric: Metric) -> str:
    """Name a column: next-token losses by their unit, as the field does."""
    return "nats/token" if metric.is_cross_entropy else metric.name


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)
