"""Files, folders and globs of a recipe -> the files they name, in a fixed order."""

import glob
from collections.abc import Iterable
from pathlib import Path

from distrain.errors import DataError


def find_files(patterns: Iterable[str]) -> list[Path]:
    """List the files that ``patterns`` name, each once, sorted.

    A folder stands for all files below it but hidden ones (those whose name, or a folder of
    theirs, begins with a dot).

    Raises:
        DataError: A pattern names nothing.
    """
    found = {file for pattern in patterns for file in _expand(pattern)}
    return sorted(found, key=Path.as_posix)


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        files = _below(path)
        if not files:
            raise DataError(
                "data.source.paths",
                f"no files in the folder {pattern}",
                "a folder that holds text files",
                "Put text files there, or correct the path.",
            )
        return files
    if not glob.has_magic(pattern):
        raise DataError(
            "data.source.paths",
            f"no file or folder {pattern} (looked for {path.absolute()})",
            "a file, a folder or a glob",
            f"Correct the path{_nearest_parent(path)}.",
        )
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207
    files = [match for match in matches if match.is_file()]
    if not files:
        raise DataError(
            "data.source.paths",
            f"no file that matches {pattern} (looked from {Path.cwd()})",
            "a glob that matches at least one file",
            "Correct the pattern; ** matches folders at any depth.",
        )
    return files


def _below(folder: Path) -> list[Path]:
    return [
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def _nearest_parent(path: Path) -> str:
    for parent in path.absolute().parents:
        if parent.is_dir():
            return f"; {parent} is the last part of it that exists"
    return ""
