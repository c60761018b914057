"""The data part of the report: what a prepare stage made of its sources. Pure.

Takes the counts of ``result.json`` or, as long as the stage is not done, of ``corpus.json``; either
may lack what a recipe did not ask for.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from distrain.config.data import SPLITS
from launcher.report.data import Fields, StageRecords, fields, number
from launcher.report.parts import Figure, Table
from launcher.report.text import (
    UNKNOWN,
    count,
    integer,
    share,
    short_bytes,
    short_count,
    significant,
    visible,
)

ALL_SOURCES = "All sources"
SOURCES_LISTED = 40
"""Rows of tables are cut there: a page of thousands is read by nobody, and not mailed."""
SOURCES_DETAILED = 12
"""Sources with a chart and tables of their own."""
LABELS_LISTED = 12
NAME_CHARACTERS = 80


@dataclass(frozen=True)
class SourceCounts:
    """Counts of the documents of one source, kept and not kept.

    Args:
        kept: Documents by split.
        rejected: Reason -> documents that are text, but not wanted.
        broken: Reason -> what is no text.
        text_bytes: UTF-8 bytes of kept documents, by split.
        tokens: By split; a split that is tokenized on the fly has none.
        quality: Column -> ``mean`` and ``quantiles`` over kept documents.
        labels: Counts of labels, missing and conflicting ones included.
    """

    name: str
    read: int
    kept: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    text_bytes: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    quality: Fields = field(default_factory=dict)
    labels: Fields = field(default_factory=dict)


def read_sources(stage: StageRecords) -> list[SourceCounts]:
    """Return the counts of every source, in the order of the recipe; none if none are there."""
    given = fields(stage.result.get("sources")) or fields(stage.corpus.get("sources"))
    findings = fields(stage.corpus.get("findings"))
    if given:
        return [
            _source(name, fields(findings.get(name)) | fields(record))
            for name, record in given.items()
        ]
    return _without_sources(stage.result)


def total(sources: Iterable[SourceCounts]) -> SourceCounts:
    """Add up the counts of several sources."""
    whole = SourceCounts(ALL_SOURCES, sum(source.read for source in sources))
    for source in sources:
        for name in ("kept", "rejected", "broken", "text_bytes", "tokens"):
            getattr(whole, name).update(getattr(source, name))
    return whole


def corpus_figures(stage: StageRecords) -> list[Figure]:
    """Key figures of a prepare stage, as far as it came."""
    sources = read_sources(stage)
    if not sources:
        return []
    whole, result = total(sources), stage.result
    figures = [Figure("documents read", integer(whole.read))]
    for label, found in (
        ("kept", whole.kept), ("rejected", whole.rejected), ("broken", whole.broken)
    ):  # fmt: skip
        documents = sum(found.values())
        # A zero is shown for what was kept alone: there it says something.
        if label == "kept" or documents:
            figures.append(Figure(label, integer(documents), share(documents, whole.read)))
    size = number(result.get("bytes")) or sum(whole.text_bytes.values())
    if size:
        figures.append(Figure("text", short_bytes(size)))
    tokens = number(result.get("tokens"))
    if tokens is not None:
        ratio = number(result.get("tokens_per_byte"))
        note = "" if ratio is None else f"{significant(ratio)} a byte"
        # The total would else look like the tokens of everything that was kept.
        if whole.kept["train"] and not whole.tokens["train"]:
            note = "without train: on the fly"
        figures.append(Figure("tokens", short_count(tokens), note))
    vocabulary = number(result.get("vocab_size"))
    if vocabulary is not None:
        figures.append(Figure("vocabulary", integer(vocabulary), "tokens"))
    return figures


def prepare_tables(stage: StageRecords) -> list[Table]:
    """Documents, tokens and text of each split over all sources, and labels."""
    sources = read_sources(stage)
    tables = [_splits_table(stage, sources)]
    tables += [
        _labels_table(source, len(sources) > 1)
        for source in sources[:SOURCES_DETAILED]
        if source.labels
    ]
    return [table for table in tables if table.rows]


def source_tables(stage: StageRecords) -> list[Table]:
    """Splits of each source, if there are several, and quality of their kept documents."""
    sources = read_sources(stage)
    tables = [_sources_table(sources)] if len(sources) > 1 else []
    with_quality = [source for source in sources if source.quality]
    tables += [
        _quality_table(source, len(sources) > 1) for source in with_quality[:SOURCES_DETAILED]
    ]
    return [table for table in tables if table.rows]


def _source(name: str, record: Fields) -> SourceCounts:
    parts = {key: _counts(record.get(key)) for key in ("kept", "rejected", "broken", "tokens")}
    # ``result.json`` and ``corpus.json`` name it differently.
    sizes = _counts(record.get("bytes")) or _counts(record.get("text_bytes"))
    # What was read, where the record does not say: every document is in one of these.
    accounted = sum(parts[key].total() for key in ("kept", "rejected", "broken"))
    read = number(record.get("read"))
    return SourceCounts(
        visible(name, NAME_CHARACTERS),
        accounted if read is None else int(read),
        text_bytes=sizes,
        quality=fields(record.get("quality")),
        labels=fields(record.get("labels")),
        **parts,
    )


def _without_sources(result: Fields) -> list[SourceCounts]:
    """Take totals for those of one source, as results had it before they listed sources."""
    documents, dropped = number(result.get("documents")), _counts(result.get("dropped"))
    if documents is None and not dropped:
        return []
    splits = {name: fields(split) for name, split in fields(result.get("splits")).items()}
    kept = _counts({name: split.get("documents") for name, split in splits.items()})
    # Results older still have one number for all splits.
    kept = kept or Counter({"documents": int(documents or 0)})
    return [
        SourceCounts(
            ALL_SOURCES,
            kept.total() + dropped.total(),
            kept,
            dropped,
            text_bytes=_counts({name: split.get("bytes") for name, split in splits.items()}),
            tokens=_counts({name: split.get("tokens") for name, split in splits.items()}),
        )
    ]


def _splits_table(stage: StageRecords, sources: list[SourceCounts]) -> Table:
    whole = total(sources)
    given, pairs = fields(stage.result.get("splits")), fields(stage.result.get("pairs"))
    header: tuple[str, ...] = ("split", "documents", "tokens", "text", "pairs")
    rows: list[tuple[str, ...]] = []
    for name in _in_order(given or whole.kept):
        split = fields(given.get(name)) or {
            "documents": whole.kept.get(name), "bytes": whole.text_bytes.get(name)
        }  # fmt: skip
        cells = (*_cells(split), integer(number(pairs.get(name))))
        rows.append((visible(name, NAME_CHARACTERS), *cells))
    if not pairs:
        header, rows = header[:-1], [row[:-1] for row in rows]
    return Table("Splits", header, tuple(rows))


def _sources_table(sources: list[SourceCounts]) -> Table:
    """Rows of one source stand together; its name is on the first of them."""
    # Shares are within a split: across splits they would mix train with what is held out.
    tokens = total(sources).tokens
    rows: list[tuple[str, ...]] = []
    for source in sources[:SOURCES_LISTED]:
        for place, name in enumerate(_in_order({**source.kept, **source.tokens})):
            split = {
                "documents": source.kept.get(name),
                "tokens": source.tokens.get(name),
                "bytes": source.text_bytes.get(name),
            }
            part = share(source.tokens[name], tokens[name]) if tokens[name] else UNKNOWN
            of = "" if place else source.name
            rows.append((of, visible(name, NAME_CHARACTERS), *_cells(split), part))
    header = ("source", "split", "documents", "tokens", "text", "share of tokens")
    left = len(sources) - SOURCES_LISTED
    note = "Shares are of the split's tokens."
    if left > 0:
        note += f" {count(left, 'source')} more in result.json."
    return Table("Sources", header, tuple(rows), note, text_columns=2)


def _labels_table(source: SourceCounts, is_named: bool) -> Table:
    labels = _counts(source.labels.get("labels"))
    shown = labels.most_common(LABELS_LISTED)
    rows = [
        (visible(label, NAME_CHARACTERS), integer(amount), share(amount, labels.total()))
        for label, amount in shown
    ]
    if len(labels) > len(shown):
        rest = labels.total() - sum(amount for _, amount in shown)
        name = count(len(labels) - len(shown), "more label")
        rows.append((name, integer(rest), share(rest, labels.total())))
    notes = [
        f"{integer(found)} {what}."
        for key, what in (
            ("missing", "documents without a label"),
            ("conflicting", "documents whose text also has another label"),
        )
        if (found := number(source.labels.get(key)))
    ]
    title = f"Labels, {source.name}" if is_named else "Labels"
    header = ("label", "documents", "share")
    # So these counts do not add up to the kept documents of the table above.
    notes.insert(0, "Counted before copies were dropped.")
    return Table(title, header, tuple(rows), " ".join(notes))


def _quality_table(source: SourceCounts, is_named: bool) -> Table:
    columns = {name: fields(column) for name, column in source.quality.items()}
    quantiles = {name: _quantiles(column.get("quantiles")) for name, column in columns.items()}
    points = sorted({point for found in quantiles.values() for point in found})
    rows = tuple(
        (
            visible(name, NAME_CHARACTERS),
            significant(number(column.get("mean"))),
            *(_quantile(quantiles[name].get(point)) for point in points),
        )
        for name, column in columns.items()
        if quantiles[name]
    )
    header = ("column", "mean", *(f"{100 * point:g}%" for point in points))
    note = "Under 5% stands the value that a twentieth of the documents do not exceed."
    title = "Quality of kept documents"
    return Table(f"{title}, {source.name}" if is_named else title, header, rows, note)


def _quantile(value: float | None) -> str:
    is_whole = value is not None and value == int(value)
    return integer(value) if is_whole else significant(value)


def _quantiles(value: object) -> dict[float, float]:
    found: dict[float, float] = {}
    for key, amount in _numbers(value).items():
        try:
            found[float(key)] = amount
        except ValueError:
            continue
    return found


def _cells(split: Fields) -> tuple[str, str, str]:
    size = number(split.get("bytes"))
    return (
        integer(number(split.get("documents"))),
        integer(number(split.get("tokens"))),
        UNKNOWN if size is None else short_bytes(size),
    )


def _in_order(splits: Mapping[str, object]) -> list[str]:
    return [name for name in SPLITS if name in splits] + [s for s in splits if s not in SPLITS]


def _counts(value: object) -> Counter[str]:
    """Keep what counts: finite numbers that are not negative."""
    return Counter({name: int(found) for name, found in _numbers(value).items() if found >= 0})


def _numbers(value: object) -> dict[str, float]:
    found = {name: number(amount) for name, amount in fields(value).items()}
    return {name: amount for name, amount in found.items() if amount is not None}
