"""Which files a path of a recipe names, and in which form they are: by their names, unread."""

import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from distrain.config.packages import PACKAGE, package_folders, split_package

FileFormat = Literal["text", "lines", "jsonl", "json", "parquet", "csv", "arrow"]
ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
}
ROW_ENDINGS = {**ENDINGS, ".json": "json"}
"""Of files that hold rows. In a folder of texts, a ``.json`` file always was a text as others."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class FileForm:
    """How the bytes of a file are to be read."""

    format: str
    compression: str | None = None


def form_by_name(
    url: str, format_: str | None = None, endings: Mapping[str, str] = ENDINGS
) -> FileForm:
    """Read the form of a file from its name, unless the recipe gives the format."""
    path = PurePosixPath(url.partition("?")[0] if "://" in url else url)
    compression = COMPRESSIONS.get(path.suffix)
    if compression is not None:
        path = path.with_suffix("")
    return FileForm(format_ or endings.get(path.suffix, "text"), compression)


def local_path(pattern: str) -> str:
    """Return the path of a ``file://`` URL or of ``package:MODULE/FILE``.

    Anything else is a path already, and so is the name of a file that a package does not have.
    """
    if pattern.startswith(PACKAGE):
        module, name = split_package(pattern)
        found = (folder / name for folder in package_folders(module))
        return next((str(path) for path in found if path.exists()), pattern)
    return pattern.removeprefix("file://").removeprefix("local://")


def local_files(pattern: str) -> Iterator[Path]:
    """Yield the files that a path, folder or glob of this machine names, in no order.

    A folder stands for all files below it but hidden ones (those whose name, or a folder of
    theirs, begins with a dot).
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        yield path
    elif path.is_dir():
        for file in path.rglob("*"):
            if file.is_file() and not is_hidden(file.relative_to(path).parts):
                yield file
    elif glob.has_magic(pattern):
        for match in glob.iglob(str(path), recursive=True):  # noqa: PTH207
            if Path(match).is_file():
                yield Path(match)


def is_hidden(parts: tuple[str, ...] | list[str]) -> bool:
    """Return whether one of the names on a path begins with a dot."""
    return any(part.startswith(".") for part in parts)
