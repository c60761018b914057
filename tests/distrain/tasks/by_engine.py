"""Runs of a task that every engine makes: whole, then cut and gone on with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distrain.runs.json_lines import read_records
from tests.ranks import run_ranks


def records(folder: Path, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the records of a run, with the fields whose names begin so."""
    found = read_records(folder / "pretrain" / "metrics.jsonl")
    return [
        {key: value for key, value in record.items() if key.startswith(names)} for record in found
    ]


def runs_by_engine(
    make_folder: Callable[[str], Path], body: Callable[[Path, str], None]
) -> Callable[[str], Path]:
    """Return what gives the folder of an engine's runs, which are made when first asked for.

    Args:
        make_folder: Makes a folder of a name.
        body: What each rank does with the folder and the engine; one rank for ``single``, else two.
    """
    folders: dict[str, Path] = {}

    def of(engine: str) -> Path:
        if engine not in folders:
            folder = folders[engine] = make_folder(engine)
            run_ranks(folder / "ranks", 1 if engine == "single" else 2, body, folder, engine)
        return folders[engine]

    return of
