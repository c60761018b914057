"""``distrain report``: one offline HTML page of a run, made from its plain files.

The page asks nothing of the network and is small enough to be mailed.
"""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain import __version__
from distrain.config.lineage import MODEL_KINDS
from distrain.config.tasks import BALANCING_LOSS, Metric
from distrain.errors import NotFoundError, PreflightError
from distrain.runs.durable import write_text
from distrain.runs.failures import Failure
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.records import EVAL, NOT_APPLIED, STEP, TRAIN, utc_now
from launcher.report.charts import GRID, Chart, ChartSpec, Level, Series, build_chart
from launcher.report.corpus import corpus_figures, source_tables
from launcher.report.data import (
    Fields,
    RunData,
    StageRecords,
    number,
    read_run,
    seconds,
)
from launcher.report.examples import ShownExample, shown_examples
from launcher.report.metrics import harness_tables, values
from launcher.report.mixture import mixture_tables
from launcher.report.parts import Figure, Table
from launcher.report.rejections import CountsChart, ReasonExamples, counts_charts, examples_shown
from launcher.report.results import TABLES, origin_tables, summary, training_figures
from launcher.report.resumes import resume_tables
from launcher.report.samples import PromptSamples, samples_shown
from launcher.report.spikes import spike_figures, spike_tables
from launcher.report.text import UNKNOWN, date_text, significant, visible
from launcher.report.timeline import build_timeline, event_rows

MAX_BYTES = 300_000
RECORDS_DRAWN = 5000
"""Of one stage; more are thinned out, and the page says so."""
TEXT_SHOWN = 30_000
"""Characters of the recipe."""
FAILURE_SHOWN = 4000
"""Characters of an error."""
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""A folder that others may read only."""
TEMPLATES = Path(__file__).parent
UNIGRAMS = (
    ("unigram_entropy", "unigram entropy"),
    ("unigram_cross_entropy", "train unigram"),
)


@dataclass(frozen=True)
class StageSection:
    """One stage on the page."""

    stage: StageRecords
    figures: list[Figure]
    main_chart: Chart | None
    charts: list[Chart]
    tables: list[Table]
    note: str
    corpus: "CorpusPart | None" = None
    data_tables: tuple[Table, ...] = ()
    examples: tuple[ShownExample, ...] = ()
    left_out: tuple[ReasonExamples, ...] = ()
    """Examples of fine-tuning."""
    samples: tuple[PromptSamples, ...] = ()
    samples_note: str = ""


@dataclass(frozen=True)
class CorpusPart:
    """What a prepare stage has beside its tables."""

    charts: list[CountsChart]
    tables: list[Table]
    examples: list[ReasonExamples]
    examples_note: str


def write_report(run: RunFolder, output: Path | None = None) -> Path:
    """Write the page; works at any moment of a run, also of one that only others may write to.

    Args:
        run: Only read, but for ``report.html`` in it.
        output: Another file; by default that of the run folder or, where that cannot be written
            to, ``<run>-report.html`` in the working folder.

    Returns:
        The file.

    Raises:
        NotFoundError: There is no such run folder.
        PreflightError: The file cannot be written.
    """
    if not run.root.is_dir():
        raise NotFoundError(
            str(run.root), "no folder of that name", "a run folder", "See `distrain list`."
        )
    page = render(read_run(run))
    if output is not None:
        return _written(output, page)
    try:
        write_text(run.report, page)
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
    else:
        return run.report
    return _written(Path(f"{run.root.name}-report.html"), page)


def _written(path: Path, page: str) -> Path:
    try:
        write_text(path, page)
    except OSError as error:
        raise PreflightError(
            str(path),
            f"that it cannot be written ({error.strerror})",
            "a file in a folder of yours",
            "Choose another one with --output FILE.",
        ) from error
    return path


def render(run: RunData) -> str:
    """Render the page; draws fewer records when it would grow beyond ``MAX_BYTES``."""
    records_drawn = RECORDS_DRAWN
    while True:
        page = _render(run, records_drawn)
        if len(page.encode()) < MAX_BYTES or records_drawn < 100:
            return page
        records_drawn = records_drawn * 3 // 4


def thinned(records: list[Fields], most: int) -> list[Fields]:
    """Keep every n-th record and the last one, so that about ``most`` remain."""
    if len(records) <= most:
        return records
    every = -(-len(records) // most)
    kept = records[::every]
    return kept if kept[-1] is records[-1] else [*kept, records[-1]]


def _render(run: RunData, records_drawn: int) -> str:
    import jinja2  # not needed by any other command

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    events, events_note = event_rows(run.events)
    timeline = build_timeline(run)
    page = environment.get_template("report.html.j2").render(
        run=run,
        summary=summary(run),
        failures=[_banner(stage.name, stage.failure) for stage in run.stages if stage.failure],
        sections=[_section(run, stage, records_drawn) for stage in run.stages],
        timeline=timeline,
        outcomes={attempt.outcome for stage in run.stages for attempt in stage.attempts},
        has_marks=timeline is not None and any(row.marks for row in timeline.rows),
        events=events,
        events_note=events_note,
        environment=flatten(run.environment),
        recipe=shortened(run.recipe),
        written=utc_now(),
        version=__version__,
        grid=GRID,
        rejections=StageFolder(Path(), "").rejections.name,
        written_samples=StageFolder(Path(), "").samples.name,
    )
    return page.encode("utf-8", "backslashreplace").decode()  # names may hold half a pair


def _banner(stage: str, failure: Failure) -> dict[str, str]:
    time_s = seconds({"time": failure.time})
    when = "" if time_s is None else date_text(time_s)
    texts = {"error": failure.error, "remedy": failure.remedy}
    shown = {name: visible(text, FAILURE_SHOWN) for name, text in texts.items()}
    return {"stage": stage, "time": when, **shown}


def _section(run: RunData, stage: StageRecords, records_drawn: int) -> StageSection:
    tables = TABLES[stage.kind](stage) if stage.kind in TABLES else []
    tables += origin_tables(stage)
    if stage.kind == "prepare":
        bars, note = counts_charts(stage)
        part = CorpusPart(bars, source_tables(stage), *examples_shown(stage))
        return StageSection(stage, corpus_figures(stage), None, [], tables, note, part)
    if stage.kind not in MODEL_KINDS:
        return StageSection(stage, [], None, [], tables, "")
    tables += [*harness_tables(stage), *spike_tables(stage, run), *resume_tables(stage, run)]
    records = thinned(stage.steps, records_drawn)
    note = ""
    if len(records) < len(stage.steps):
        note = (
            f"Drawn: {len(records):,} of {len(stage.steps):,} step records, evenly chosen; "
            "metrics.jsonl has them all."
        )
    marks = restart_marks(stage)
    scores = thinned(stage.scores, records_drawn)
    others = (*stage.task.others, BALANCING_LOSS)  # no chart where no record has it
    specs = [_metric_spec(metric, records, scores, marks) for metric in others]
    specs += _chart_specs(records, marks)
    charts = [chart for chart in map(build_chart, specs) if chart is not None]
    samples, samples_note = samples_shown(stage)
    return StageSection(
        stage,
        [*training_figures(stage), *spike_figures(stage, run)] if charts else [],
        build_chart(_loss_spec(stage, records, scores, marks)),
        charts,
        tables,
        note,
        data_tables=tuple(mixture_tables(stage, run)),
        examples=tuple(shown_examples(stage)),
        left_out=tuple(examples_shown(stage)[0]),
        samples=tuple(samples),
        samples_note=samples_note,
    )


def restart_marks(stage: StageRecords) -> tuple[tuple[int, str], ...]:
    """Find the first step of every attempt but the first, and of stretches not applied."""
    marks = []
    previous, reason = None, None
    for record in stage.steps:
        attempt = record.get("attempt")
        if record.get(NOT_APPLIED) not in (None, reason):
            marks.append((int(record[STEP]), f"not applied: {record[NOT_APPLIED]}"))
        reason = record.get(NOT_APPLIED)
        if previous is not None and attempt != previous:
            marks.append((int(record[STEP]), f"attempt {attempt}"))
        previous = attempt
    return tuple(marks)


def _loss_spec(
    stage: StageRecords,
    records: list[Fields],
    scores: list[Fields],
    marks: tuple[tuple[int, str], ...],
) -> ChartSpec:
    levels = [(label, number(stage.result.get(name))) for name, label in UNIGRAMS]
    if stage.kind == "sft":
        levels = [
            ("tuned, shuffled prompts", number(stage.result.get("eval_loss_shuffled_prompts")))
        ]
    drawn = tuple(Level(label, value) for label, value in levels if value is not None)
    return _metric_spec(stage.task.trained, records, scores, marks, drawn)


def _metric_spec(
    metric: Metric,
    records: list[Fields],
    scores: list[Fields],
    marks: tuple[tuple[int, str], ...],
    levels: tuple[Level, ...] = (),
) -> ChartSpec:
    """A metric of the task: of each step, and of each validation."""
    points = {
        part: _points(found, f"{part}{metric.name}")
        for part, found in ((TRAIN, records), (EVAL, scores))
    }
    return ChartSpec(
        title=metric.name.capitalize().replace("_", " "),
        unit=metric.full_unit,
        series=(
            Series("train", "train", points[TRAIN]),
            Series("validation", "validation", points[EVAL], is_dotted=True),
        ),
        levels=levels,
        marks=marks,
    )


def _chart_specs(records: list[Fields], marks: tuple[tuple[int, str], ...]) -> list[ChartSpec]:
    def spec(title: str, unit: str, field: str, **options: Any) -> ChartSpec:  # noqa: ANN401
        series = Series(title.lower(), "single", _points(records, field))
        found = values(records, field)
        headline = f"last {significant(found[-1])}" if found else ""
        return ChartSpec(title, unit, (series,), headline, (), marks, **options)

    return [
        spec("Learning rate", "", "train/learning_rate", from_zero=True),
        spec("Gradient norm", "L2, before clipping", "train/grad_norm", may_be_log=True),
        spec("Throughput", "tokens per second", "perf/tokens_per_sec", from_zero=True),
        spec("Memory", "GiB, peak of the largest rank", "memory/max_gib", from_zero=True),
    ]


def _points(records: list[Fields], field: str) -> list[tuple[int, float | None]]:
    return [(int(record[STEP]), number(record.get(field))) for record in records]


def flatten(value: Fields, prefix: str = "") -> list[tuple[str, str]]:
    """Write nested settings as dotted keys, for a table of two columns."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            rows += flatten(item, f"{name}.")
        elif isinstance(item, list):
            rows.append((name, ", ".join(map(str, item))))
        else:
            rows.append((name, UNKNOWN if item is None else str(item)))
    return rows


def shortened(text: str) -> str:
    """Cut a text that would fill the page."""
    if len(text) <= TEXT_SHOWN:
        return text
    return text[:TEXT_SHOWN] + "\n# ... cut here; resolved.yaml in the run folder has the rest"
