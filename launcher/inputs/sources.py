"""The text sources of a prepare stage: whether their rows have the field that holds the text.

Looked at are the first rows of files of this machine (a process of the runtime reads those of which
the base install knows nothing), and the names of the columns of CSV and parquet. What lies on the
hub or in a store is judged when it is prepared.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from distrain.config.input_files import FileForm, form_by_name, local_files, local_path
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import PrepareStage, Recipe
from distrain.config.rows import SHOWN_FIELDS
from distrain.config.sources import (
    DatasetsSource,
    FilesSource,
    HubSource,
    TextFields,
    protocol_of,
)
from launcher.inputs.first_rows import PlacedRow, column_names, first_rows
from launcher.inputs.parquet import parquet_columns
from launcher.inputs.runtime_rows import (
    MAX_FILES,
    RowsSaid,
    needs_runtime,
    rows_of_files,
    rows_of_library,
)
from launcher.run_files import runs_dir


@dataclass
class RowsSeen:
    """What the first rows of the JSON lines of one source are like."""

    rows: int = 0
    without_text: int = 0
    """No JSON object, or no text in the field."""
    first: str = ""
    """The first of those: where, and what it is."""
    fields: dict[str, None] = field(default_factory=dict)
    """Names in the rows that are objects, in order of appearance."""


def check_sources(recipe: Recipe) -> Iterator[Finding]:
    """Check each source of files, in each prepare stage."""
    for name, stage in recipe.stages.items():
        if not isinstance(stage, PrepareStage):
            continue
        for source_name, source in stage.data.text_sources.items():
            if isinstance(source, FilesSource | HubSource | DatasetsSource):
                setting = stage.data.setting_of(source_name)
                for finding in _check_source(setting, source, stage.data.skip_budget):
                    yield Finding(name, *finding)


_Located = tuple[tuple[str, ...], str, bool]
"""Path, message and ``is_note`` of a finding."""


WITH_FIELDS = ("jsonl", "csv", "arrow")
"""Formats whose rows are looked at by the runtime; of parquet the footer says all there is to know.
"""
_AnySource = FilesSource | HubSource | DatasetsSource


def _check_source(setting: str, source: _AnySource, budget: int) -> Iterator[_Located]:
    seen = RowsSeen()
    said = RowsSaid()
    if isinstance(source, FilesSource):
        others = []
        for file, form in _files(source):
            if needs_runtime(form) and form.format in WITH_FIELDS:
                others.append(file)
            elif form.format == "jsonl":
                _look_at_rows(first_rows(file, form), source, seen)
            else:
                missing = _missing_column(file, form, source)
                if missing is not None:
                    key, message = missing
                    yield (*setting.split("."), key), f"{setting}.{key}: {message}", False
                    break
        said = rows_of_files(source, others)
    else:
        said = rows_of_library(source)
    if said.problem is not None:
        yield tuple(setting.split(".")), f"{setting}: {said.problem}", False
    for each in said.files:
        _look_at_rows(each.rows, source, seen)
    if not seen.without_text:
        return
    path, name = (*setting.split("."), "text_field"), f"{setting}.text_field"
    if seen.without_text == seen.rows or seen.without_text > budget:
        fields = ", ".join(list(seen.fields)[:SHOWN_FIELDS])
        remedy = f"set it to one of {fields}" if fields else "write one JSON object a line"
        message = (
            f"{name}: found {seen.without_text} of the first {seen.rows} rows without text in "
            f"'{source.text_field}', the first in {seen.first}; expected a field of the rows; "
            f"{remedy}"
        )
        yield path, message, False
    else:
        message = (
            f"{name}: {seen.without_text} of the first {seen.rows} rows have no text in "
            f"'{source.text_field}', the first in {seen.first}; they are broken documents"
        )
        yield path, message, True


def _files(source: FilesSource) -> Iterator[tuple[Path, FileForm]]:
    paths = (local_path(path) for path in source.paths if protocol_of(path) is None)
    files = (file for path in paths if not _holds_runs(path) for file in local_files(path))
    for file in islice(files, MAX_FILES):
        yield file, form_by_name(file.name, source.format)


def _holds_runs(path: str) -> bool:
    """Return whether a folder would take a run's own files as documents: preflight refuses that."""
    return runs_dir().is_relative_to(Path(path).expanduser().absolute())


def _look_at_rows(rows: Iterable[PlacedRow], source: TextFields, seen: RowsSeen) -> None:
    for place, row, _ in rows:
        seen.rows += 1
        is_object = isinstance(row, dict)
        seen.fields |= dict.fromkeys(row) if is_object else {}
        if is_object and isinstance(row.get(source.text_field), str):
            continue
        seen.without_text += 1
        what = f"which has {', '.join(row) or 'no field'}" if is_object else "which is no object"
        seen.first = seen.first or f"{place}, {what}"


def _missing_column(file: Path, form: FileForm, source: FilesSource) -> tuple[str, str] | None:
    if form.format == "csv":
        names = column_names(file, form)
    else:
        names = parquet_columns(file) if form == FileForm("parquet") else None
    if names is None:
        return None
    for key, column in (("text_field", source.text_field), ("label_field", source.label_field)):
        if column is not None and column not in names:
            shown = ", ".join(names[:SHOWN_FIELDS])
            message = (
                f"found '{column}', which is no column of {file}; expected a column of every "
                f"file; set it to one of {shown}"
            )
            return key, message
    return None
