"""First rows of the files that the launcher cannot read: Arrow, parquet, ``.zst``, saved datasets.

It needs no more than the base install, and so has no pyarrow: a process of the runtime reads them,
as the stage will. Where that is not installed nothing is known of them here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distrain.config.chats import is_saved_dataset
from distrain.config.input_files import FileForm, local_files, local_path
from distrain.config.section import Section
from distrain.config.sources import DatasetsSection, FilesSection, HubSection, protocol_of
from launcher.inputs.first_rows import MAX_BYTES, MAX_ROWS, ROWS, PlacedRow
from launcher.runtime_questions import ask_once, problem_of

MAX_FILES = 1000
"""Of a source; more are not opened here, for each takes a network's round trip on some disks."""
TABLES = ("arrow", "parquet")


@dataclass(frozen=True, slots=True)
class RowsOfFile:
    """The first rows of a file.

    Args:
        file: Its path.
        rows: Place, content, and whether it has filler.
        broken: Places that cannot be read, and why.
    """

    file: Path
    rows: Sequence[PlacedRow]
    broken: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class RowsSaid:
    """What the runtime found in a source.

    Args:
        files: With their rows; empty where nobody can say.
        problem: Why the source cannot be read.
    """

    files: Sequence[RowsOfFile] = ()
    problem: str | None = None


def needs_runtime(form: FileForm) -> bool:
    """Whether a file holds rows that only the runtime reads."""
    if form.format in TABLES:
        return form.compression is None
    return form.compression == "zstd" and form.format in ROWS


def rows_of_files(source: FilesSection, files: Sequence[Path]) -> RowsSaid:
    """Let the runtime read some files of a source."""
    if not files:
        return RowsSaid()
    return _rows(source.model_copy(update={"paths": tuple(map(str, files))}))


def rows_of_library(source: Section) -> RowsSaid:
    """Let the runtime read what ``datasets`` saved or reads here; nothing of what is elsewhere."""
    if isinstance(source, HubSection) and is_saved_dataset(source.path):
        return _rows(source)
    if isinstance(source, DatasetsSection) and all(map(_is_here, source.paths)):
        return _rows(source)
    return RowsSaid()


def _is_here(path: str) -> bool:
    return protocol_of(path) is None and any(local_files(local_path(path)))


def _rows(source: Section) -> RowsSaid:
    # Sections of examples say what their fields are called, those of documents where the text is.
    limits = {"files": MAX_FILES, "rows": MAX_ROWS, "bytes": MAX_BYTES}
    asked = {
        "read": source.model_dump(mode="json"),
        "examples": hasattr(source, "fields"),
        "limits": limits,
    }
    answer = ask_once("first-look", json.dumps(asked, sort_keys=True))
    files = [
        RowsOfFile(Path(each["file"]), each["rows"], each["broken"])
        for each in answer.get("files", ())
    ]
    return RowsSaid(files, problem_of(answer))
