"""The schedule of a pretraining stage, and the epochs of each source. Pure.

Computed from the weights in ``data.json``. The runtime holds them exactly over blocks of 2048
samples and in a keyed order within one, so a source may be a few dozen samples off.
"""

from dataclasses import dataclass
from itertools import pairwise

from launcher.report.corpus import NAME_CHARACTERS, read_sources
from launcher.report.data import RunData, StageRecords, fields, number
from launcher.report.parts import Table
from launcher.report.text import UNKNOWN, count, integer, share, short_count, significant, visible

SEGMENTS_LISTED = 40
SOURCES_LISTED = 12


@dataclass(frozen=True)
class DrawnSegment:
    """A stretch in which nothing changes; steps and samples are counted from 0.

    Args:
        by_size: The weights are the samples of each source in an epoch.
    """

    first_step: int
    first_sample: int
    batch_size: int
    weights: dict[str, float]
    by_size: bool

    def share_of(self, source: str) -> float:
        """Return the part of the samples that come from ``source``."""
        return self.weights.get(source, 0.0) / sum(self.weights.values())


def mixture_tables(stage: StageRecords, run: RunData) -> list[Table]:
    """Segments of the schedule, if something changes or is mixed, and epochs of each source."""
    segments = read_segments(stage)
    if not segments:
        return []
    sources = list(dict.fromkeys(name for segment in segments for name in segment.weights))
    tables = [_epochs_table(stage, run, segments, sources)]
    if len(sources) > 1 or len(segments) > 1:
        tables.insert(0, _schedule_table(stage, segments, sources))
    return [table for table in tables if table.rows]


def read_segments(stage: StageRecords) -> list[DrawnSegment]:
    """Return the schedule; none if any of it is not as the runtime writes it."""
    given = stage.data.get("schedule")
    segments = [_segment(record) for record in given] if isinstance(given, list) else []
    return [] if None in segments else [found for found in segments if found is not None]


def samples_read(segments: list[DrawnSegment], end: float) -> dict[str, float]:
    """Return how many of the first ``end`` samples come from each source."""
    read: dict[str, float] = {}
    ends = [following.first_sample for _, following in pairwise(segments)]
    for segment, last in zip(segments, [*ends, end], strict=True):
        samples = max(min(last, end) - segment.first_sample, 0)
        for source in segment.weights:
            read[source] = read.get(source, 0) + samples * segment.share_of(source)
    return read


def _segment(record: object) -> DrawnSegment | None:
    if not isinstance(record, dict) or not isinstance(record.get("weights"), dict):
        return None
    places = [number(record.get(key)) for key in ("first_step", "first_sample", "batch_size")]
    weights = {str(name): number(weight) for name, weight in record["weights"].items()}
    known = {name: weight for name, weight in weights.items() if weight is not None and weight >= 0}
    # A segment half read would shift all figures of those after it: better no table.
    if None in places or len(known) < len(weights) or not sum(known.values()):
        return None
    first_step, first_sample, batch_size = (int(place) for place in places if place is not None)
    return DrawnSegment(first_step, first_sample, batch_size, known, record.get("by_size") is True)


def _schedule_table(stage: StageRecords, segments: list[DrawnSegment], sources: list[str]) -> Table:
    named, others = sources[:SOURCES_LISTED], sources[SOURCES_LISTED:]
    header = ("steps", "first sample", "batch size", *(_name(name) for name in named))
    if others:
        header = (*header, count(len(others), "other source"))
    max_steps = number(stage.data.get("max_steps"))
    ends = [following.first_step for _, following in pairwise(segments)]
    rows = []
    for segment, end in zip(segments, [*ends, max_steps], strict=True):
        last = UNKNOWN if end is None else integer(max(end, segment.first_step + 1))
        cells = [_weight(segment, name) for name in named]
        if others:
            cells.append(share(sum(map(segment.share_of, others)), 1))
        steps = f"{integer(segment.first_step + 1)} to {last}"
        rows.append((steps, integer(segment.first_sample), integer(segment.batch_size), *cells))
    # The last segments are shown if there are too many: they are what the run does now.
    left = len(rows) - SEGMENTS_LISTED
    notes = ["Steps are counted from 1, samples from 0. Under a source: its weight and share."]
    if any(segment.by_size for segment in segments):
        notes.append("Weights by size: the samples of an epoch, each read once in it.")
    if left > 0:
        notes.append(f"The first {count(left, 'segment')} are in data.json only.")
    return Table("Schedule", header, tuple(rows[-SEGMENTS_LISTED:]), " ".join(notes))


def _epochs_table(
    stage: StageRecords, run: RunData, segments: list[DrawnSegment], sources: list[str]
) -> Table:
    length = number(stage.data.get("sequence_length"))
    max_steps = number(stage.data.get("max_steps"))
    if not length or max_steps is None:
        return Table("Epochs", (), ())
    last = segments[-1]
    # From the last segment on: batch sizes before it may have been others.
    end = last.first_sample + (max_steps - last.first_step) * last.batch_size
    # What was read counts from the records of steps: the plan says where the run should be.
    planned, read = samples_read(segments, end), samples_read(segments, _samples_so_far(stage))
    tokens = _train_tokens(stage, run)
    rows = []
    for name in sources[:SOURCES_LISTED]:
        size = _samples_in_epoch(name, segments, tokens.get(name), length)
        rows.append(
            (
                _name(name),
                integer(tokens.get(name)),
                significant(planned[name] / size) if size else UNKNOWN,
                significant(read[name] / size) if size else UNKNOWN,
                short_count(read[name] * length),
                share(read[name], sum(read.values())) if sum(read.values()) else UNKNOWN,
            )
        )
    header = ("source", "train tokens", "epochs planned", "epochs read", "tokens read", "share")
    notes = ["Computed from the schedule; distrain data seen lists the documents of a step."]
    packing = fields(stage.settings.get("data")).get("packing")
    if packing == "best_fit" and not any(segment.by_size for segment in segments):
        notes.append("Padding of best-fit packing is not counted.")
    return Table("Epochs of each source", header, tuple(rows), " ".join(notes))


def _samples_in_epoch(
    name: str, segments: list[DrawnSegment], tokens: float | None, length: float
) -> float | None:
    for segment in segments:
        if segment.by_size and segment.weights.get(name):
            return segment.weights[name]
    # As the runtime cuts them: the first token is no target, and the tail fills no sample.
    return None if tokens is None else max(tokens - 1, 0) // length


def _samples_so_far(stage: StageRecords) -> float:
    if not stage.steps:
        return 0
    first = number(stage.steps[-1].get("data/first_sample")) or 0
    return first + (number(stage.steps[-1].get("data/num_samples")) or 0)


def _train_tokens(stage: StageRecords, run: RunData) -> dict[str, float]:
    """Return the train tokens of each source of the prepare stage that ``stage`` builds on."""
    stages = {found.name: found for found in run.stages}
    # What was visited is kept, for ``needs`` of a damaged record may go in a circle.
    names, visited = [stage.name], set[str]()
    while names:
        name = names.pop(0)  # its own data before those of the model that it starts from
        found = stages.get(name)
        if found is None or name in visited:
            continue
        visited.add(name)
        if found.kind == "prepare":
            sources = read_sources(found)
            tokens = {source.name: source.tokens["train"] for source in sources}
            return {name: found for name, found in tokens.items() if found}
        needs = found.settings.get("needs")
        names += [needs] if isinstance(needs, str) else map(str, _items(needs))
    return {}


def _weight(segment: DrawnSegment, source: str) -> str:
    weight = segment.weights.get(source)
    if weight is None:
        return UNKNOWN
    text = integer(weight) if weight == int(weight) else f"{weight:g}"
    return f"{text} ({share(segment.share_of(source), 1)})"


def _name(source: str) -> str:
    return visible(source, NAME_CHARACTERS)


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []
