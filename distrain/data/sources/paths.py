"""Files, folders, globs and URLs of a recipe -> the files they name, in a fixed order."""

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distrain.config.input_files import is_hidden, local_files, local_path
from distrain.config.sources import protocol_of
from distrain.data.sources.ranges import InputFile
from distrain.data.sources.storage import Storage, file_from, local_file, url_of, version_of
from distrain.errors import DataError

WHERE = "data.source.paths"


def list_files(patterns: Iterable[str], storage: Storage) -> list[InputFile]:
    """List the files that ``patterns`` name, each once, sorted by path or URL.

    A folder stands for all files below it but hidden ones (those whose name, or a folder of
    theirs, begins with a dot).

    Raises:
        DataError: A pattern names nothing, or a store does not answer.
    """
    found: dict[str, InputFile] = {}
    for pattern in patterns:
        if protocol_of(pattern) is None:
            files = [local_file(path) for path in _expand(local_path(pattern))]
        else:
            files = _expand_url(pattern, storage)
        found.update((file.url, file) for file in files)
    # A file system lists in any order; ranges are numbered in this one.
    return [found[url] for url in sorted(found)]


def _expand(pattern: str) -> list[Path]:
    files = list(local_files(pattern))
    if files:
        return files
    path = Path(pattern).expanduser()
    if path.is_dir():
        raise _empty_folder(pattern)
    if not glob.has_magic(pattern):
        raise DataError(
            WHERE,
            f"no file or folder {pattern} (looked for {path.absolute()})",
            "a file, a folder or a glob",
            f"Correct the path{_nearest_parent(path)}.",
        )
    raise _no_match(pattern, f" (looked from {Path.cwd()})")


def _expand_url(url: str, storage: Storage) -> list[InputFile]:
    if _is_glob(url):
        matches = storage.ask(url, "glob", detail=True)
        files = [
            _listed(url, path, info, storage)
            for path, info in matches.items()
            if info["type"] == "file"
        ]
        if not files:
            raise _no_match(url, "")
        return files
    try:
        info = storage.ask(url, "info")
    except FileNotFoundError:
        raise DataError(
            WHERE, f"no file or folder {url}", "a file, a folder or a glob", "Correct the URL."
        ) from None
    if info["type"] != "directory":
        return [_listed(url, info["name"], info, storage)]
    root = info["name"].rstrip("/")
    files = [
        _listed(url, path, info, storage)
        for path, info in storage.ask(url, "find", detail=True).items()
        if not is_hidden(path.removeprefix(root).strip("/").split("/"))
    ]
    if not files:
        raise _empty_folder(url)
    return files


def _listed(parent: str, path: str, info: dict[str, Any], storage: Storage) -> InputFile:
    url = url_of(parent, path, storage.options)
    if info.get("size") is None or not version_of(info):
        return storage.stat(url)  # a listing that tells less than the file itself
    return file_from(url, info)


def _is_glob(url: str) -> bool:
    # In an address of the web, a question mark begins the query.
    is_web = protocol_of(url) in {"http", "https"}
    return "*" in url if is_web else glob.has_magic(url)


def _empty_folder(pattern: str) -> DataError:
    return DataError(
        WHERE,
        f"no files in the folder {pattern}",
        "a folder that holds text files",
        "Put text files there, or correct the path.",
    )


def _no_match(pattern: str, looked: str) -> DataError:
    return DataError(
        WHERE,
        f"no file that matches {pattern}{looked}",
        "a glob that matches at least one file",
        "Correct the pattern; ** matches folders at any depth.",
    )


def _nearest_parent(path: Path) -> str:
    for parent in path.absolute().parents:
        if parent.is_dir():
            return f"; {parent} is the last part of it that exists"
    return ""
