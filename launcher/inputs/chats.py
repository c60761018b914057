"""The examples that a stage reads: their shape, and whether a first look refuses them.

Looked at are the first rows of files of this machine (a process of the runtime reads those of which
the base install knows nothing), and the names of the columns of a parquet file that is large. What
lies on the hub or in a store is judged when it is read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from distrain.config.chats import VALIDATION, ChatDocstrings, ChatFiles, ChatSource
from distrain.config.input_files import FileForm, form_by_name, local_files, local_path
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import Recipe, examples_of
from distrain.config.row_contents import question_of
from distrain.config.rows import (
    RowsOfSource,
    renamed,
    shape_of,
    unknown_shape,
    unwanted_shape,
)
from distrain.config.sources import protocol_of
from distrain.config.turns import RowError
from launcher.inputs.first_rows import PlacedRow, first_rows
from launcher.inputs.parquet import parquet_columns
from launcher.inputs.runtime_rows import needs_runtime, rows_of_files, rows_of_library
from launcher.inputs.templates import LaidOut, check_template
from launcher.text import plural

MAX_FILES = 100
"""Of a source; more are not opened here."""
SHOWN_PROBLEMS = 3


@dataclass
class FirstLook:
    """What the first rows of a source are like."""

    rows: RowsOfSource
    looked_at: int = 0
    files: list[Path] = field(default_factory=list)
    failure: str | None = None
    """Why the source cannot be read at all."""
    problems: list[str] = field(default_factory=list)
    """Where and what, of rows that make no example."""
    questions: dict[str, str] = field(default_factory=dict)
    """What is asked -> where."""
    laid_out: LaidOut = field(init=False)

    def __post_init__(self) -> None:
        """Begin with no row."""
        self.laid_out = LaidOut(self.rows.fields)


def check_chats(recipe: Recipe) -> Iterator[Finding]:
    """Say what shape the examples of each stage have; refuse those that cannot be read."""
    for name, stage in recipe.stages.items():
        data = examples_of(stage)
        if data is not None:
            looks = {
                setting: look_at(source, wants_preferences=data.reads_preferences)
                for setting, source in data.settings_of_sources.items()
                if not isinstance(source, ChatDocstrings)
            }
            laid_out = {setting: look.laid_out for setting, look in looks.items()}
            for setting, look in looks.items():
                yield from _judge(name, setting, look, data.skip_budget)
            yield from _check_overlap(name, looks)
            yield from check_template(recipe, name, data, laid_out)


def _judge(stage: str, setting: str, look: FirstLook, skip_budget: int) -> Iterator[Finding]:
    path = tuple(setting.split("."))
    if look.failure is not None:
        yield Finding(stage, path, f"{setting}: {look.failure}")
    elif len(look.problems) > skip_budget or (look.problems and look.rows.shape is None):
        # A wrong setting makes the same of all rows: once is enough to say what.
        firsts: dict[str, str] = {}
        for problem in look.problems:
            firsts.setdefault(problem.partition(": ")[2], problem)
        shown = list(firsts.values())[:SHOWN_PROBLEMS]
        rest = len(look.problems) - len(shown)
        more = f"; and {rest} more" if rest > 0 else ""
        message = (
            f"{setting}: found {'; '.join(shown)}{more}; expected "
            "examples in one of the forms of docs/chats.md; correct or remove these, or raise "
            "data.skip_budget: they are then left out, and counted"
        )
        yield Finding(stage, path, message)
    elif look.rows.shape is not None:
        yield Finding(stage, path, f"{setting}: {_summary(look)}", is_note=True)


def _check_overlap(stage: str, looks: dict[str, FirstLook]) -> Iterator[Finding]:
    """Refuse a question that is trained on and validated with; the stage compares all of them."""
    setting = f"data.{VALIDATION}"
    held_out = looks.pop(setting, None)
    if held_out is None:
        return
    trained = {
        question: where for look in looks.values() for question, where in look.questions.items()
    }
    for question, where in held_out.questions.items():
        if question in trained:
            message = (
                f"{setting}: found the prompt of {trained[question]} in {where}; expected prompts "
                "that are not trained on; remove it from one of the two"
            )
            yield Finding(stage, ("data", VALIDATION), message)
            return


def look_at(source: ChatSource, *, wants_preferences: bool = False) -> FirstLook:
    """Read the first rows of a source's files."""
    look = FirstLook(RowsOfSource(source.fields, wants_preferences=wants_preferences))
    if isinstance(source, ChatFiles):
        forms = dict(_files(source))
        for file, form in forms.items():
            if not needs_runtime(form):
                _look_at_file(look, file, first_rows(file, form))
        others = [file for file, form in forms.items() if needs_runtime(form)]
        said = rows_of_files(source, others)
        read = {each.file for each in said.files}
        for file in others:
            # Its footer says what the rows of a large one are like, and needs no library.
            if file not in read and forms[file].format == "parquet":
                _look_at_columns(file, look)
    else:
        said = rows_of_library(source)
    look.failure = said.problem
    for each in said.files:
        _look_at_file(look, each.file, each.rows)
        look.problems += [f"{place}: {why}" for place, why in each.broken]
    return look


def _summary(look: FirstLook) -> str:
    shape = look.rows.shape
    assert shape is not None, "the caller looked"
    names = look.files[0].name if len(look.files) == 1 else plural(len(look.files), "file")
    seen = f"{plural(look.looked_at, 'row')} looked at" if look.looked_at else "by its columns"
    ignored = ", ".join(look.rows.ignored)
    not_read = f"; not read: {ignored}" if ignored else ""
    skipped = f"; {plural(len(look.problems), 'row')} left out" if look.problems else ""
    return f"{names}: {shape.title}, {seen}{not_read}{skipped}"


def _files(source: ChatFiles) -> Iterator[tuple[Path, FileForm]]:
    paths = (local_path(path) for path in source.paths if protocol_of(path) is None)
    files = (file for path in paths for file in sorted(local_files(path)))
    for file in islice(files, MAX_FILES):
        yield file, form_by_name(file.name, source.format, source.endings)


def _look_at_file(look: FirstLook, file: Path, rows: Iterable[PlacedRow]) -> None:
    before = look.looked_at
    for place, row, has_filler in rows:
        look.looked_at += 1
        if isinstance(row, ValueError):
            look.problems.append(f"{place}: not JSON")
            continue
        try:
            said = look.rows.read(row, has_filler=has_filler)
            look.questions.setdefault(question_of(said).strip(), place)
            look.laid_out.add((place, row, has_filler), said)
        except RowError as error:
            look.problems.append(f"{place}: {error}")
    if look.looked_at > before:
        look.files.append(file)


def _look_at_columns(file: Path, look: FirstLook) -> None:
    columns = parquet_columns(file)
    if columns is None:
        return
    look.files.append(file)
    names = renamed(dict.fromkeys(columns, ""), look.rows.fields)
    shape = shape_of(names)
    if shape is None:
        look.problems.append(f"{file}: {unknown_shape(names)}")
        return
    wanted = look.rows.wants_preferences
    problem = unwanted_shape(names, shape, wants_preferences=wanted)
    if problem is not None:
        look.problems.append(f"{file}: {problem}")
    elif look.rows.shape is None:
        look.rows.shape = shape
