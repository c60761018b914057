"""The folder of a run: finding it, making it, and giving it a recipe."""

import os
import re
import shlex
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

from distrain.config.reading.load import (
    LoadedRecipe,
    dump_resolved,
    keep_older_values,
    read_resolved,
    recipe_fingerprint,
)
from distrain.config.recipe import Recipe
from distrain.errors import NotFoundError, PreflightError
from distrain.runs.durable import write_text
from distrain.runs.folder import RunFolder
from distrain.runs.records import read_state, write_json
from launcher.environment import describe_environment
from launcher.pinned_dates import with_pinned_dates
from launcher.pinned_families import with_families_of, with_pinned_families
from launcher.run_changes import Change, has_begun, refuse_built_on

RUNS_DIR_VARIABLE = "DISTRAIN_RUNS_DIR"


def runs_dir() -> Path:
    """Return the folder that holds all runs: ``$DISTRAIN_RUNS_DIR`` or ``./runs``."""
    folder = Path(os.environ.get(RUNS_DIR_VARIABLE) or "runs").absolute()
    _refuse_control_characters(folder, RUNS_DIR_VARIABLE)
    return folder


def _refuse_control_characters(folder: Path, where: str) -> None:
    """Refuse a path that would become several lines of a job's script.

    Raises:
        PreflightError: Says which character it is.
    """
    path = str(folder)
    control = re.search(r"[\x00-\x1f\x7f]", path)
    if control is not None:
        raise PreflightError(
            where,
            f"{control[0]!r} as character {control.start() + 1} of {path!r}",
            "a path without control characters",
            f"Set {RUNS_DIR_VARIABLE} to a folder whose path has none.",
        )


def run_of(recipe: Recipe) -> RunFolder:
    """Return the folder that a recipe's name stands for."""
    return RunFolder(runs_dir() / recipe.name)


def find_run(target: str | None) -> RunFolder:
    """Return an existing run by path, name or unique prefix; by default the latest.

    Raises:
        NotFoundError: No such run, or several with that prefix.
    """
    if target is not None and ("/" in target or target in (".", "..")):
        run = RunFolder(Path(target).absolute())
        _refuse_control_characters(run.root, "the folder of the run")
        if run.resolved.is_file():
            return run
        raise _no_run(target, "no run folder (it has no resolved recipe)", [])
    runs = {folder.name: RunFolder(folder) for folder in _run_folders()}
    if target is None:
        if not runs:
            raise _no_run(f"a run in {runs_dir()}", "none", [])
        return max(runs.values(), key=last_change_ns)
    if target in runs:
        return runs[target]
    matches = [name for name in runs if name.startswith(target)]
    if len(matches) != 1:
        found = f"{len(matches)} that start so" if matches else "none of that name"
        raise _no_run(f"run {target}", found, matches or list(runs))
    return runs[matches[0]]


def name_of(run: RunFolder) -> str:
    """Return what a command takes for this run: its name, or its folder if that lies elsewhere."""
    is_here = run.root.parent == runs_dir()
    return shlex.quote(run.root.name if is_here else shown_path(run.root))


def shown_path(path: Path) -> str:
    """Write a path relative to the working folder if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def all_runs() -> list[RunFolder]:
    """Return the runs of the runs folder, the latest first."""
    return sorted(map(RunFolder, _run_folders()), key=last_change_ns, reverse=True)


def last_change_ns(run: RunFolder) -> int:
    """Return when something last happened in a run, in nanoseconds since 1970."""
    newest = run.events if run.events.exists() else run.resolved
    return newest.stat().st_mtime_ns


def make_folder(run: RunFolder) -> None:
    """Make the folder of a run, or take an existing one unless it holds foreign files.

    Raises:
        PreflightError: The folder cannot be made, or holds files but no run.
    """
    try:
        run.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError(
            str(run.root),
            f"that the folder cannot be made ({error.strerror})",
            "a folder that can be written to",
            f"Set {RUNS_DIR_VARIABLE} to a folder of yours.",
        ) from error
    own = {run.lock.name, run.recipe.name, run.environment.name}
    foreign = [
        path.name
        for path in sorted(run.root.iterdir())
        if path.name not in own and not path.name.startswith(".")
    ]
    if foreign and not run.resolved.exists():
        raise PreflightError(
            str(run.root),
            f"a folder that is no run but holds {', '.join(foreign[:3])}",
            "a new or empty folder, or the folder of this run",
            "Choose another name with name=OTHER, or move that folder away.",
        )


def open_run(run: RunFolder, loaded: LoadedRecipe) -> list[Change] | None:
    """Write the recipe into a new run folder, or into one where nothing contradicts it.

    The caller holds the lock of the run.

    Returns:
        What changed in a run that was there; ``None``: the run is new.

    Raises:
        PreflightError: A begun or finished stage has built on a value that differs; names both.
    """
    if run.resolved.exists():
        old, loaded = read_resolved(run.resolved), as_in_folder(run, loaded)
        changes = change_run(run, loaded.recipe)
        if recipe_fingerprint(old) != recipe_fingerprint(loaded.recipe):
            write_text(run.recipe, loaded.text)
        return changes
    write_json(run.environment, describe_environment())
    write_text(run.recipe, loaded.text)
    pinned = with_pinned_dates(with_pinned_families(loaded.recipe), _today())
    write_text(run.resolved, dump_resolved(pinned))  # last: it makes the folder a run
    return None


def as_in_folder(run: RunFolder, loaded: LoadedRecipe) -> LoadedRecipe:
    """Let a folder go on as it began, in what the recipe does not state.

    That is, by the values of an older version, by the defaults that a family of transformers had
    then, and by the day on which the run was made.
    """
    old = read_resolved(run.resolved)
    recipe = keep_older_values(old, loaded.recipe, loaded.origins)
    begun = [name for name in old.stages if has_begun(run, name)]
    recipe = with_pinned_dates(with_families_of(old, recipe, begun), _today(), old)
    return replace(loaded, recipe=recipe)


def change_run(run: RunFolder, recipe: Recipe) -> list[Change]:
    """Give an existing run new values, and return what changed.

    Raises:
        PreflightError: A begun or finished stage has built on one of them; nothing was changed.
    """
    changes = refuse_built_on(run, read_resolved(run.resolved), recipe)
    write_json(run.environment, describe_environment())
    if changes:
        write_text(run.resolved, dump_resolved(recipe))
    return changes


def _today() -> date:
    # The same day wherever the command is typed, as all times of a run.
    return datetime.now(UTC).date()


def _run_folders() -> list[Path]:
    root = runs_dir()
    if not root.is_dir():
        return []
    return [folder for folder in sorted(root.iterdir()) if RunFolder(folder).resolved.is_file()]


def _no_run(where: str, found: str, names: list[str]) -> NotFoundError:
    return NotFoundError(
        where,
        found,
        "one of: " + ", ".join(names) if names else f"a run in {runs_dir()}",
        f"Start one with `distrain run RECIPE`, or set {RUNS_DIR_VARIABLE} to where the runs are.",
    )


def committed_step(run: RunFolder, stage: str) -> int:
    """Return how far a stage is on disk."""
    state = read_state(run.stage(stage))
    return state["step"] if state else 0
