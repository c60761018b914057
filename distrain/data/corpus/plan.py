"""The plan of a prepare stage's input: every file with its version, cut into ranges, in order.

It is written once, before anything is read. A stage that goes on later reads by it, and refuses
input that is no longer what was planned: one corpus made of two states of it would be neither.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.config.data import DataConfig
from distrain.data.sources import open_source
from distrain.data.sources.ranges import InputFile, InputRange
from distrain.errors import DataError
from distrain.runs.records import read_json, write_json

VERSION = 1
SHOWN = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedRange:
    """One range of one source.

    Args:
        number: Within its source.
        rows: Rows of the file in it; ``None``: all up to the end of its last file.
    """

    source: str
    number: int
    part: InputRange
    rows: int | None = None

    @property
    def key(self) -> str:
        """Its name in the work folder; in the order of the plan within one source."""
        return f"{self.source}/{self.number:05d}"

    @property
    def title(self) -> str:
        """For messages."""
        files = self.part.files
        names = files[0].url if len(files) == 1 else f"{files[0].url} to {files[-1].url}"
        row = f" from row {self.part.first_row}" if self.part.first_row else ""
        return f"range {self.number} of source {self.source} ({names}{row})"

    @property
    def size_bytes(self) -> int:
        """Bytes of its files; of a part of a file, a share that is at least one byte."""
        size = sum(file.size for file in self.part.files)
        if self.part.stop is not None and self.part.stop <= size:
            size = self.part.stop - self.part.start
        return max(1, size)


@dataclass(frozen=True)
class InputPlan:
    """Every file and every range, in the order of the recipe.

    Args:
        settings: Digest of all settings that decide what is made of the input.
        files: Source -> its files.
    """

    settings: str
    files: dict[str, list[InputFile]]
    ranges: tuple[PlannedRange, ...]

    def of_source(self, source: str) -> list[PlannedRange]:
        """Return the ranges of one source, in order."""
        return [planned for planned in self.ranges if planned.source == source]


def make_plan(config: DataConfig, settings: str) -> InputPlan:
    """List and cut the sources as they are now.

    Raises:
        DataError: A source is not there, or holds nothing.
    """
    files: dict[str, list[InputFile]] = {}
    ranges: list[PlannedRange] = []
    for name, source in config.text_sources.items():
        reader = open_source(source, config.range_bytes)
        files[name] = reader.files()
        ranges += number_ranges(name, reader.ranges(files[name]))
    return InputPlan(settings, files, tuple(ranges))


def number_ranges(source: str, parts: Sequence[InputRange]) -> list[PlannedRange]:
    """Number the ranges of a source, and count the rows of those that end within a file."""
    following = [*parts[1:], None]
    return [
        PlannedRange(source, number, part, _rows(part, after))
        for number, (part, after) in enumerate(zip(parts, following, strict=True))
    ]


def _rows(part: InputRange, after: InputRange | None) -> int | None:
    # A range knows where it begins only: it ends where the next of the same file does.
    if after is None or after.files != part.files or after.first_row <= part.first_row:
        return None
    return after.first_row - part.first_row


def load_plan(path: Path) -> InputPlan | None:
    """Read what ``save_plan`` wrote; ``None`` if there is nothing, or of another version."""
    record = read_json(path)
    if record is None or record.get("version") != VERSION:
        return None
    files: dict[str, list[InputFile]] = {}
    ranges: list[PlannedRange] = []
    for name, source in record["sources"].items():
        files[name] = [InputFile(*file) for file in source["files"]]
        parts = [_range_from(part, files[name]) for part in source["ranges"]]
        ranges += number_ranges(name, parts)
    return InputPlan(record["settings"], files, tuple(ranges))


def save_plan(plan: InputPlan, path: Path) -> None:
    """Write the plan; a file's place stands for the file in the ranges."""
    sources = {}
    for name, files in plan.files.items():
        # Places instead of files: a corpus of a million small files would be written twice.
        places = {file.url: place for place, file in enumerate(files)}
        sources[name] = {
            "files": [[file.url, file.size, file.version] for file in files],
            "ranges": [
                planned.part.to_record()
                | {"files": [places[file.url] for file in planned.part.files]}
                for planned in plan.of_source(name)
            ],
        }
    write_json(path, {"version": VERSION, "settings": plan.settings, "sources": sources})


def _range_from(record: dict[str, Any], files: Sequence[InputFile]) -> InputRange:
    urls = [files[place] for place in record["files"]]
    listed = [[file.url, file.size, file.version] for file in urls]
    return InputRange.from_record(record | {"files": listed})


def check_inputs(plan: InputPlan, config: DataConfig, folder: Path) -> None:
    """Compare the files with what was planned; those that came later are left out, and named.

    Raises:
        DataError: A file changed, was cut off or is gone.
    """
    for name, source in config.text_sources.items():
        setting = config.setting_of(name)
        # Listed anew and compared by size and version, without reading: a restart may not cost a
        # pass over the corpus.
        planned = {file.url: file for file in plan.files[name]}
        found = {file.url: file for file in open_source(source, config.range_bytes).files()}
        changes = [
            change
            for url, file in planned.items()
            if (change := _change(file, found.get(url))) is not None
        ]
        if changes:
            more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
            raise DataError(
                setting,
                f"other files than when the stage began: {', '.join(changes[:SHOWN])}{more}",
                "the files as they were then, for what was made of them is kept",
                f"Restore them, or remove the folder {folder} to begin again with what is there.",
            )
        # No error: what was planned is all there, and a folder that is still filled would otherwise
        # end every restart.
        later = [url for url in found if url not in planned]
        if later:
            log.warning(
                "%s: %d files that came after the stage began are left out, the first is %s; "
                "remove the folder %s to begin again with them",
                setting,
                len(later),
                later[0],
                folder,
            )


def _change(planned: InputFile, found: InputFile | None) -> str | None:
    if found is None:
        return f"{planned.url} (gone)"
    if found.size != planned.size:
        return f"{planned.url} ({found.size} bytes, it had {planned.size})"
    if found.version != planned.version:
        return f"{planned.url} (changed, with the same size)"
    return None
