"""Rejected documents of a source: bars by reason, and a few of the documents. Pure.

Rejected documents are strangers' text, so what is shown of them is short and obeys no command.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from launcher.report.corpus import SOURCES_DETAILED, SourceCounts, read_sources, total
from launcher.report.data import Fields, StageRecords
from launcher.report.text import count, integer, share, visible

REASONS_DRAWN = 16
MIN_WIDTH = 0.4
"""Percent of the axis below which a bar could not be seen."""
MIN_PART = 0.008
"""Of a bar; more than above, as it must be told from its neighbour."""
EXAMPLE_CHARACTERS = 300
EXAMPLE_LINES = 8
PATH_CHARACTERS = 160
EXAMPLES_BYTES = 60_000
"""Of all examples on the page, as they are written there."""


@dataclass(frozen=True)
class Part:
    """A stretch of a bar, in percent of it."""

    label: str
    style: str
    at: float
    width: float
    documents: str
    share: str


@dataclass(frozen=True)
class CountsChart:
    """Documents of one source: one bar of all that was read, then one a reason.

    Args:
        parts: Kept, rejected and broken; they fill the bar.
        reasons: The most frequent first, to the scale of the first one.
    """

    title: str
    read: str
    parts: tuple[Part, ...]
    reasons: tuple[Part, ...]
    note: str


@dataclass(frozen=True)
class RejectedText:
    """The beginning of one rejected document; its text is none if it could not be read."""

    path: str
    text: str | None


@dataclass(frozen=True)
class ReasonExamples:
    """Some documents that went for one reason."""

    source: str
    reason: str
    documents: str
    examples: tuple[RejectedText, ...]


def counts_charts(stage: StageRecords) -> tuple[list[CountsChart], str]:
    """Draw all sources together, if there are several, then each; also return a note."""
    sources = [source for source in read_sources(stage) if source.read > 0]
    if len(sources) > 1:
        left = len(sources) - SOURCES_DETAILED
        note = f"{count(left, 'source')} more without a chart." if left > 0 else ""
        return list(map(counts_chart, [total(sources), *sources[:SOURCES_DETAILED]])), note
    return [replace(counts_chart(source), title="Documents") for source in sources], ""


def counts_chart(source: SourceCounts) -> CountsChart:
    """Lay out the bars of a source with at least one document."""
    groups = {"kept": source.kept, "rejected": source.rejected, "broken": source.broken}
    by_reason = [
        (amount, reason, style)
        for style in ("rejected", "broken")
        for reason, amount in groups[style].items()
        if amount
    ]
    # Equal counts by name, so that a page made again is the same.
    by_reason.sort(key=lambda entry: (-entry[0], entry[1]))
    reasons = [
        Part(
            visible(reason, PATH_CHARACTERS),
            style,
            0.0,
            # Relative to the most frequent reason: relative to all documents, most bars would be
            # invisible.
            round(max(100 * amount / by_reason[0][0], MIN_WIDTH), 3),
            integer(amount),
            share(amount, source.read),
        )
        for amount, reason, style in by_reason[:REASONS_DRAWN]
    ]
    rest = [amount for amount, _, _ in by_reason[REASONS_DRAWN:]]
    note = f"{count(len(rest), 'rarer reason')}: {count(sum(rest), 'document')}." if rest else ""
    read = count(source.read, "document")
    return CountsChart(source.name, read, _parts(source), tuple(reasons), note)


def examples_shown(stage: StageRecords) -> tuple[list[ReasonExamples], str]:
    """Choose examples, in turn one of each reason while there is room; also return a note."""
    # Counts of the whole source beside each sample: a few examples say nothing of how many there
    # are.
    documents = {
        (source.name, reason): amount
        for source in read_sources(stage)
        for reason, amount in (source.rejected + source.broken).most_common()
    }
    found: dict[tuple[str, str], list[RejectedText]] = {}
    for record in stage.rejections:
        key = (str(record.get("source", "")), str(record.get("reason", "")))
        found.setdefault(key, []).append(_example(record))
    # The most frequent reasons first, as room may run out; then what the counts do not know.
    groups = {key: found[key] for key in (*documents, *found) if key in found}
    shown = _within(EXAMPLES_BYTES, list(groups.values()))
    chosen = []
    for key, examples in zip(groups, shown, strict=True):
        if examples:
            source, reason = (visible(text, PATH_CHARACTERS) for text in key)
            amount = documents.get(key)
            of = "" if amount is None else integer(amount)
            chosen.append(ReasonExamples(source, reason, of, tuple(examples)))
    left = len(groups) - len(chosen)
    note = "" if not left else f"No room for examples of {count(left, 'more reason')}."
    return chosen, note


def _example(record: Fields) -> RejectedText:
    path, text = record.get("path"), record.get("text")
    path = path if isinstance(path, str) else ""
    if len(path) > PATH_CHARACTERS:
        path = "…" + path[1 - PATH_CHARACTERS :]  # the end tells files apart
    shown = beginning(text) if isinstance(text, str) else None
    return RejectedText(visible(path, PATH_CHARACTERS), shown)


def beginning(text: str) -> str:
    """Return the first few lines of a document, its control characters written out."""
    shown = visible(text, EXAMPLE_CHARACTERS)
    lines = shown.split("\n")
    if len(lines) <= EXAMPLE_LINES:
        return shown
    return "\n".join([*lines[:EXAMPLE_LINES], "…"])


def _within(budget: int, groups: Sequence[Sequence[RejectedText]]) -> list[list[RejectedText]]:
    shown: list[list[RejectedText]] = [[] for _ in groups]
    for turn in range(max(map(len, groups), default=0)):
        for chosen, group in zip(shown, groups, strict=True):
            if turn < len(group):
                # In turns: a reason with long texts must not take the room of all others.
                budget -= _size(group[turn])
                if budget < 0:
                    return shown
                chosen.append(group[turn])
    return shown


def _size(example: RejectedText) -> int:
    markup = 120
    return markup + sum(len(escape(text or "").encode()) for text in (example.path, example.text))


def _parts(source: SourceCounts) -> tuple[Part, ...]:
    """Cut the bar of a source; parts too small to be seen take a little from the others."""
    groups = {"kept": source.kept, "rejected": source.rejected, "broken": source.broken}
    documents = {style: found.total() for style, found in groups.items() if found.total()}
    # A group of one document in a million is drawn too: that there are any is what counts.
    widths = [max(amount / source.read, MIN_PART) for amount in documents.values()]
    parts, at = [], 0.0
    for (style, amount), width in zip(documents.items(), widths, strict=True):
        width *= 100 / sum(widths)
        shown = (integer(amount), share(amount, source.read))
        parts.append(Part(style, style, round(at, 3), round(width, 3), *shown))
        at += width
    return tuple(parts)
