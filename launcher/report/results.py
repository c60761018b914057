"""Figures and tables of the report, one function a stage kind. Pure; says what the numbers say."""

from collections.abc import Callable
from statistics import median

from distrain.config.tasks import perplexity
from distrain.runs.conclusion import ANSWERS, DATA, PREFERENCES
from distrain.runs.failures import count_restarts
from distrain.runs.products import BEST_FIELD
from launcher.report.comparison import comparison_tables, conclusion_of
from launcher.report.corpus import NAME_CHARACTERS, prepare_tables
from launcher.report.data import Fields, RunData, StageRecords, fields, number
from launcher.report.examples import row_tables
from launcher.report.metrics import (
    asked_tables,
    metric_figures,
    source_tables,
    trained_scores,
    values,
)
from launcher.report.parts import Figure, Table
from launcher.report.preferences import PAIR_METRICS, interval_tables, reward_tables
from launcher.report.text import (
    MINUS,
    UNKNOWN,
    count,
    integer,
    nats,
    short_bytes,
    short_count,
    short_duration,
    visible,
)
from launcher.report.text import significant as digits

REASON_CHARACTERS = 200
PATHS_SHOWN = 20
"""Of pairs that were left out; ``result.json`` has them all."""


def training_figures(stage: StageRecords) -> list[Figure]:
    """Key figures of a training stage, as far as it came."""
    figures = [Figure("steps", integer(stage.last_step), _of_total(stage))]
    tokens = values(stage.steps, "train/tokens_seen")
    if tokens:
        figures.append(Figure("tokens", short_count(tokens[-1])))
    parameters = number(stage.result.get("parameters"))
    if parameters is not None:
        trained = number(stage.result.get("trainable_parameters"))
        note = "" if trained is None else f"{short_count(trained)} trained"
        figures.append(Figure("parameters", short_count(parameters), note))
    figures += metric_figures(stage)
    best = fields(stage.result.get(BEST_FIELD))
    if best:
        note = f"{best.get('metric')} {digits(number(best.get('value')))}"
        figures.append(Figure("best checkpoint", f"step {best.get('step')}", note))
    speeds = values(stage.steps, "perf/tokens_per_sec")
    if speeds:
        figures.append(Figure("tokens/s", short_count(median(speeds)), "median"))
    shares = values(stage.steps, "perf/mfu")
    if shares:
        figures.append(Figure("MFU", f"{100 * median(shares):.1f}%", "median"))
    memory = values(stage.steps, "memory/max_gib")
    if memory:
        figures.append(Figure("memory", f"{max(memory):.2f} GiB", "largest rank"))
    return figures


def pretrain_tables(stage: StageRecords) -> list[Table]:
    """The last validation: beside the two unigram figures, and of each source."""
    return [*_unigram_tables(stage), *source_tables(stage)]


def _unigram_tables(stage: StageRecords) -> list[Table]:
    scores = trained_scores(stage)
    last = number(stage.result.get("eval_loss")) or (scores[-1] if scores else None)
    rows = _loss_rows(
        stage.result,
        (
            ("unigram_entropy", "unigram entropy of the validation text itself"),
            ("unigram_cross_entropy", "validation text under the train unigram"),
        ),
        last,
    )
    if not rows or last is None:
        return []
    rows.insert(
        0, ("model, last validation", nats(last), digits(number(perplexity(last))), UNKNOWN)
    )
    header = ("validation split", "nats/token", "perplexity", "model is lower by")
    return [Table("Against token frequencies alone", header, tuple(rows))]


def sft_tables(stage: StageRecords) -> list[Table]:
    """What the held-out answers cost before and after, and which pairs did not fit."""
    followed = comparison_tables(fields(stage.result.get("answers")), stage.task)
    return [*_answer_tables(stage), *followed, *row_tables(stage), *_length_tables(stage)]


def preference_tables(stage: StageRecords) -> list[Table]:
    """How far held-out answers are told apart, and which pairs did not fit."""
    scores = {metric.name: stage.result.get(f"eval_{metric.name}") for metric in PAIR_METRICS}
    tables = reward_tables("Held-out pairs", scores)
    tables += interval_tables(fields(stage.result.get(PREFERENCES)))
    return [*tables, *row_tables(stage), *_length_tables(stage)]


def _answer_unit(stage: StageRecords) -> str:
    trained = stage.task.trained
    return "nats per answer token" if trained.is_cross_entropy else trained.name


def _length_tables(stage: StageRecords) -> list[Table]:
    """Pairs that do not fit into a sample; from the start of the stage on."""
    found = stage.result if "long_answers" in stage.result else stage.data
    answers, prompts = fields(found.get("long_answers")), fields(found.get("cut_prompts"))
    if not answers and not prompts:
        return []
    rows = [
        (split, integer(number(answers.get(split))), integer(number(prompts.get(split))))
        for split in dict.fromkeys([*answers, *prompts])
    ]
    is_cut = found.get("truncation") == "cut"
    header = ("pairs", "answers cut" if is_cut else "left out, answer too long", "prompts cut")
    dropped = found.get("dropped_pairs")
    paths = [str(path) for path in dropped] if isinstance(dropped, list) else []
    more = f" and {len(paths) - PATHS_SHOWN} more" if len(paths) > PATHS_SHOWN else ""
    # Beside the counts, which are of what is left where whole examples are dropped.
    note = f"Left out whole: {', '.join(paths[:PATHS_SHOWN])}{more}." if paths else ""
    return [Table("Pairs longer than a sample", header, tuple(rows), note)]


def _answer_tables(stage: StageRecords) -> list[Table]:
    """Held-out answers: base and tuned model, with their own and with shuffled prompts."""
    rows: list[tuple[str, ...]] = []
    for name, own, shuffled in (
        ("base model", "eval_loss_base", "eval_loss_base_shuffled_prompts"),
        ("tuned model", "eval_loss", "eval_loss_shuffled_prompts"),
    ):
        first, second = number(stage.result.get(own)), number(stage.result.get(shuffled))
        if first is not None or second is not None:
            rows.append((name, nats(first), nats(second), nats(_difference(second, first))))
    if not rows:
        return []
    if len(rows) == 2:
        changes = [
            _difference(number(stage.result.get(tuned)), number(stage.result.get(base)))
            for base, tuned in (
                ("eval_loss_base", "eval_loss"),
                ("eval_loss_base_shuffled_prompts", "eval_loss_shuffled_prompts"),
            )
        ]
        rows.append(("change", *(_signed(change) for change in changes), ""))
    return [
        Table(
            f"Held-out answers, {_answer_unit(stage)}",
            ("", "own prompt", "shuffled prompts", f"shuffled {MINUS} own"),
            tuple(rows),
            "Shuffled prompts give each answer the prompt of another pair.",
        )
    ]


TEST_COLUMNS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "loss": ("nats/token", nats),
    "perplexity": ("perplexity", digits),
    "bits_per_byte": ("bits per byte", nats),
    "accuracy": ("accuracy", nats),
    "targets": ("target tokens", integer),
}
"""Title and form of what ``evaluate`` measures of documents; another task's figures have their own
names."""


def origin_tables(stage: StageRecords) -> list[Table]:
    """The checkpoints that a model was made from, in the order in which they were made."""
    rows = []
    for name, found in stage.built_on.items():
        content = visible(str(fields(found).get("product") or UNKNOWN), NAME_CHARACTERS)
        step = integer(number(fields(found).get("step")))
        rows.append((visible(name, NAME_CHARACTERS), step, content))
    header = ("stage", "step", "content")
    return [Table("Made from", header, tuple(rows))] if rows else []


def evaluate_tables(stage: StageRecords) -> list[Table]:
    """The test split."""
    tables = []
    documents = stage.result.get("documents")
    if isinstance(documents, dict):
        known = {name: TEST_COLUMNS.get(name, (name, digits)) for name in documents}
        row = tuple(write(number(documents[name])) for name, (_, write) in known.items())
        header = ("", *(title for title, _ in known.values()))
        by = _measured_by(stage, "documents", "Measured with the model of stage")
        tables.append(Table("Test split, documents", header, (("documents", *row),), by))
    for key, title, words in (
        (ANSWERS, "Test split", " Tuned by stage"),
        (DATA, "Own data", " Model of stage"),
    ):
        answers = stage.result.get(key)
        if not isinstance(answers, dict):
            continue
        as_sft = {f"eval_{name}": value for name, value in answers.items()}
        for table in _answer_tables(StageRecords(stage.name, result=as_sft)):
            pairs = number(answers.get("pairs"))
            note = table.note if pairs is None else f"{integer(pairs)} pairs. {table.note}"
            note += _measured_by(stage, key, words)
            heading = f"{title}, answers, nats per answer token"
            tables.append(Table(heading, table.header, table.rows, note))
        tables += comparison_tables(answers, stage.task)
    preferences = fields(stage.result.get("preferences"))
    tables += [*reward_tables("Test split, pairs", preferences), *interval_tables(preferences)]
    return [*tables, *asked_tables(stage)]


def _measured_by(stage: StageRecords, what: str, words: str) -> str:
    name = fields(stage.result.get("measured")).get(what)
    return "" if name is None else f"{words} {visible(str(name), NAME_CHARACTERS)}."


def _reload_rows(reload: Fields) -> list[tuple[str, str]]:
    if not reload:
        return []  # of a version that did not compare
    gap, largest = (number(reload.get(f"largest_{what}")) for what in ("difference", "logit"))
    if not reload.get("compared") or gap is None or largest is None:
        words = f"no: {visible(str(reload.get('reason')), REASON_CHARACTERS)}"
    else:
        words = f"logits differ by at most {gap:.1e}; the largest is {largest:.1f}"
    return [("compared with transformers", words)]


def export_tables(stage: StageRecords) -> list[Table]:
    """What was written, and how large it is."""
    if not stage.result:
        return []
    size = number(stage.result.get("size_bytes"))
    rows = (
        ("folder", str(stage.result.get("folder", UNKNOWN))),
        ("parameters", integer(number(stage.result.get("parameters")))),
        ("size", UNKNOWN if size is None else short_bytes(size)),
        ("with adapter", "yes" if stage.result.get("has_adapter") else "no"),
        *_reload_rows(fields(stage.result.get("reload"))),
    )
    return [Table("Hugging Face folder", ("", ""), rows)]


TABLES: dict[str, Callable[[StageRecords], list[Table]]] = {
    "prepare": prepare_tables,
    "pretrain": pretrain_tables,
    "sft": sft_tables,
    "preference": preference_tables,
    "evaluate": evaluate_tables,
    "export": export_tables,
}


def summary(run: RunData) -> str:
    """Say in a few words how the run stands and what came out."""
    parts = [_standing(run)]
    is_one_of_several = sum(stage.kind == "pretrain" for stage in run.stages) > 1
    for stage in run.stages:
        scores = trained_scores(stage)
        if stage.kind == "pretrain" and scores:
            of = f" of {stage.name}" if is_one_of_several else ""
            parts.append(_pretrain_sentence(stage, scores, of))
        base, tuned = (number(stage.result.get(k)) for k in ("eval_loss_base", "eval_loss"))
        if stage.kind == "sft" and base is not None and tuned is not None:
            shuffled = number(stage.result.get("eval_loss_shuffled_prompts"))
            beside = "" if shuffled is None else f" ({nats(shuffled)} with shuffled prompts)"
            parts.append(
                f"Held-out answers: {nats(base)} before and {nats(tuned)} after "
                f"{stage.name}{beside}."
            )
            parts.append(conclusion_of(fields(stage.result.get("answers")), stage.task))
    return " ".join(filter(None, parts))


def _pretrain_sentence(stage: StageRecords, scores: list[float], of: str) -> str:
    metric = stage.task.trained
    text = f"Validation {metric.name} {format(scores[-1], metric.form)}"
    text += f" after {count(stage.last_step, 'step')}{of}"
    unigrams = values([stage.result], "unigram_entropy")
    unigrams += values([stage.result], "unigram_cross_entropy")
    if unigrams:
        gap = min(unigrams) - scores[-1]
        side = "under" if gap >= 0 else "over"
        text += f", {abs(gap):.2f} nats {side} the lower unigram figure of {nats(min(unigrams))}"
    return text + "."


def _standing(run: RunData) -> str:
    restarts = sum(count_restarts(run.events, stage.name) for stage in run.stages)
    again = f", {count(restarts, 'restart')}" if restarts else ""
    begun = [stage for stage in run.stages if stage.state != "waiting" or stage.attempts]
    if not begun:
        return "Not started yet."
    spans = [(a.start_s, a.end_s) for stage in run.stages for a in stage.attempts]
    worked_s = sum(end - start for start, end in spans)
    took = f" in {short_duration(worked_s)} of work" if spans else ""
    failed = next((stage for stage in run.stages if stage.state == "failed"), None)
    if failed:
        steps = f" after {count(failed.last_step, 'step')}" if failed.last_step else ""
        return f"Failed in stage {failed.name}{steps}{again}."
    if all(stage.state == "done" for stage in run.stages):
        return f"All {count(len(run.stages), 'stage')} done{took}{again}."
    now = next(stage for stage in reversed(begun))
    verb = {"running": "Running", "stopped": "Stopped in", "done": "Done with"}
    done = sum(stage.state == "done" for stage in run.stages)
    where = f"{verb.get(now.state, 'Broke off in')} stage {now.name}"
    step = f" at step {integer(now.last_step)}{_of_total(now, ' ')}" if now.steps else ""
    return f"{where}{step}; {done} of {count(len(run.stages), 'stage')} done{again}."


def _of_total(stage: StageRecords, before: str = "") -> str:
    planned = (stage.data, fields(stage.settings.get("training")))  # the first knows of any length
    total = next((n for part in planned if (n := number(part.get("max_steps"))) is not None), None)
    return "" if total is None else f"{before}of {integer(total)}"


def _loss_rows(
    result: Fields, names: tuple[tuple[str, str], ...], model: float | None
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, label in names:
        value = number(result.get(name))
        if value is not None:
            lower = nats(_difference(value, model))
            rows.append((label, nats(value), digits(number(perplexity(value))), lower))
    return rows


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.3f}".replace("-", MINUS)
