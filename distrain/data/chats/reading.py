"""Examples of fine-tuning from the files, stores and datasets of a recipe, by source and split.

The order is that of the sources, their files and their rows, and the same every time.
"""

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from distrain.config.chats import VALIDATION, ChatSource, ExampleDataConfig, SftDataConfig
from distrain.config.rows import RowsOfSource
from distrain.config.turns import RowError
from distrain.data.chats.example import Example
from distrain.data.chats.shapes import example_of
from distrain.data.curate.normalize import normalize
from distrain.data.sources import open_rows
from distrain.data.sources.document import Broken
from distrain.data.sources.ranges import InputFile
from distrain.data.sources.row_request import RowRequest
from distrain.errors import DataError

log = logging.getLogger(__name__)

SHOWN = 5
MIN_PROMPTS = 4
WHOLE = 2**62
"""Bytes of a range, where nothing is to be cut."""
BROKEN = {
    "unreadable": "a file that the system does not hand over",
    "not_utf8": "not UTF-8",
    "not_json": "not JSON",
    "too_long": "longer than max_document_bytes",
    "truncated": "the file ends early",
    "damaged": "damaged",
}
"""Why something could not be read, in words."""


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that makes no example: where, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        """Return a line for people."""
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class SplitExamples:
    """The examples of one source.

    Args:
        train: To train on; none of the source that ``data.validation`` names.
        validation: Held out.
        test: Empty, unless a stage of kind ``evaluate`` reads.
        shape: What the rows look like, for people.
        refused: Rows that make no example; at most ``data.skip_budget`` over all sources.
        ignored: Field that nothing reads -> rows that have it.
    """

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    shape: str = ""
    refused: tuple[RefusedRow, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)

    @property
    def examples(self) -> list[Example]:
        """All of them."""
        return [*self.train, *self.validation, *self.test]


def read_examples(data: SftDataConfig, *, stage_kind: str) -> dict[str, SplitExamples]:
    """Read the examples of a recipe's own data (``data.is_own``), by source.

    Args:
        data: Section of the stage of fine-tuning.
        stage_kind: Of the stage that reads: only ``evaluate`` gets the test split.

    Returns:
        A single source is called ``main``; the examples of ``data.validation`` stand under
        ``validation``. A source may have no example in a split.

    Raises:
        DataError: A source cannot be had, too many rows make no example, a prompt is trained on
            and validated with, or there are too few prompts.
    """
    wanted = data.reads_preferences
    found = {
        name: read_source(source, wants_preferences=wanted)
        for name, source in data.named_sources.items()
    }
    if data.validation_source is not None:
        found[VALIDATION] = read_source(data.validation_source, wants_preferences=wanted)
    check_refused(found, data)
    for name, source in found.items():
        _tell(name, source)
    held_out = found.pop(VALIDATION, None)
    split = split_by_prompt(found, data, has_validation=held_out is not None)
    if held_out is not None:
        check_overlap(split, held_out.train)
        split[VALIDATION] = replace(held_out, train=[], validation=held_out.train)
    if stage_kind == "evaluate":
        return split
    return {name: replace(source, test=[]) for name, source in split.items()}


def read_undivided(data: ExampleDataConfig) -> dict[str, list[Example]]:
    """Read all examples of one's own data, by source; nothing is held out.

    Raises:
        DataError: A source cannot be had, or too many rows make no example.
    """
    found = {name: read_source(source) for name, source in data.named_sources.items()}
    check_refused(found, data)
    for name, source in found.items():
        _tell(name, source)
    return {name: source.train for name, source in found.items()}


def read_source(source: ChatSource, *, wants_preferences: bool = False) -> SplitExamples:
    """Read all rows of a source; nothing is held out of it yet.

    Args:
        source: Of the recipe.
        wants_preferences: Whether a row has to have two answers.

    Raises:
        DataError: It cannot be had.
    """
    reader = open_rows(source, WHOLE)
    files = reader.files()
    folder = common_folder(files)
    rows = RowsOfSource(source.fields, wants_preferences=wants_preferences)
    examples: list[Example] = []
    refused: list[RefusedRow] = []
    for part in reader.ranges(files):
        for row in reader.rows(part, RowRequest(source.max_document_bytes)):
            if isinstance(row, Broken):
                refused.append(RefusedRow(row.path, BROKEN.get(row.reason, row.reason)))
                continue
            try:
                examples.append(example_of(row, row.path.removeprefix(folder), rows))
            except RowError as error:
                refused.append(RefusedRow(row.path, str(error)))
    title = rows.shape.title if rows.shape is not None else ""
    return SplitExamples(examples, [], [], title, tuple(refused), dict(rows.ignored))


def common_folder(files: Sequence[InputFile]) -> str:
    """Return the folder that all files lie in, with its slash: names of examples leave it out."""
    folders = [file.url.rpartition("/")[0] + "/" for file in files if "/" in file.url]
    if len(folders) < len(files) or not files:
        return ""
    shortest, longest = min(folders), max(folders)  # what these two share, all do
    while not longest.startswith(shortest):
        shortest = str(PurePosixPath(shortest).parent).rstrip("/") + "/"
    return shortest


def check_refused(found: Mapping[str, SplitExamples], data: ExampleDataConfig) -> None:
    """Refuse data of which too many rows make no example.

    Raises:
        DataError: With the first few of them, by file and line.
    """
    refused = [row for source in found.values() for row in source.refused]
    if len(refused) > data.skip_budget:
        worst = next(name for name, source in found.items() if source.refused)
        more = f" and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
        rows = "1 row" if len(refused) == 1 else f"{len(refused)} rows"
        raise DataError(
            data.setting_of(worst),
            f"{rows} that make no example: {'; '.join(map(str, refused[:SHOWN]))}{more}",
            f"examples in one of the forms of docs/chats.md; data.skip_budget is "
            f"{data.skip_budget}",
            f"Correct or remove {refused[0].path} first, or raise data.skip_budget: rows that make "
            "no example are then left out, and counted.",
        )


def split_by_prompt(
    found: Mapping[str, SplitExamples], data: SftDataConfig, *, has_validation: bool
) -> dict[str, SplitExamples]:
    """Hold examples out by the hash of what they ask, so that equal prompts stay together.

    Of so few prompts that fewer than two would fall to validation, the two with the lowest hashes
    do. With a share for the test, the two with the highest go there: that they are missing would
    else be found when the training is over. The hashes of all sources are compared, for a prompt
    may be in two of them.

    Raises:
        DataError: There are fewer than four different prompts, or, with a validation source of its
            own, fewer than two; two more with a share for the test.
    """
    places = {
        name: [place_of(example) for example in source.train] for name, source in found.items()
    }
    lowest = sorted({place for some in places.values() for place in some})
    needed = (2 if has_validation else MIN_PROMPTS) + (2 if data.test_fraction else 0)
    if len(lowest) < needed:
        raise DataError(
            ", ".join(data.setting_of(name) for name in found),
            f"{len(lowest)} different prompts",
            f"at least {needed}: two to train on"
            + ("" if has_validation else ", two to validate with")
            + (", two for the test" if data.test_fraction else ""),
            "Add examples.",
        )
    limit = -1.0 if has_validation else max(data.validation_fraction, lowest[1])
    first_of_test = min(1.0 - data.test_fraction, lowest[-2]) if data.test_fraction else 1.0
    split = {}
    for name, source in found.items():
        train: list[Example] = []
        validation: list[Example] = []
        test: list[Example] = []
        for example, place in zip(source.train, places[name], strict=True):
            side = test if place >= first_of_test else validation if place <= limit else train
            side.append(example)
        split[name] = replace(source, train=train, validation=validation, test=test)
    return split


def check_overlap(split: Mapping[str, SplitExamples], validation: Sequence[Example]) -> None:
    """Refuse a prompt that is trained on and validated with.

    Raises:
        DataError: With both places.
    """
    trained = {
        _question(example): example.path for source in split.values() for example in source.examples
    }
    both = [
        (trained[question], example.path)
        for example in validation
        if (question := _question(example)) in trained
    ]
    if both:
        shown = "; ".join(f"{one} and {other}" for one, other in both[:SHOWN])
        raise DataError(
            "data.validation",
            f"{len(both)} prompts that the other sources have too: {shown}",
            "prompts that are not trained on",
            "Remove them from one of the two, or remove data.validation: a share of the prompts "
            "is then held out by their hash.",
        )


def place_of(example: Example) -> float:
    """Return where in [0, 1) the question of an example falls, on every machine alike."""
    digest = hashlib.blake2b(_question(example).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _question(example: Example) -> str:
    return normalize(example.asked)


def _tell(name: str, source: SplitExamples) -> None:
    """Log what a source is and what of it is not read."""
    log.info("%s: %s, %d examples", name, source.shape or "no rows", len(source.train))
    if source.refused:
        log.warning(
            "%s: %d rows make no example: %s",
            name,
            len(source.refused),
            _listed(map(str, source.refused[:SHOWN])),
        )
    if source.ignored:
        counts = [f"{key} ({rows} rows)" for key, rows in source.ignored.items()]
        log.info("%s: fields that are not read: %s", name, _listed(counts))


def _listed(items: Iterable[str] | Collection[str]) -> str:
    return ", ".join(items)
