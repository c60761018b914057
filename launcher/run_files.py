"""The folder of a run: finding it, making it, and refusing one that belongs to another recipe."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.config.reading.load import (
    LoadedRecipe,
    dump_resolved,
    read_resolved,
    recipe_fingerprint,
)
from distrain.config.recipe import Recipe
from distrain.errors import NotFoundError, PreflightError
from distrain.runs.durable import write_text
from distrain.runs.folder import STEP_PREFIX, RunFolder
from distrain.runs.records import read_json, write_json
from launcher.environment import describe_environment
from launcher.text import plural

RUNS_DIR_VARIABLE = "DISTRAIN_RUNS_DIR"
SHOWN_CHANGES = 5

FIXED_SECTIONS = frozenset({"kind", "needs", "model", "data", "tokenizer", "pairs", "lora"})
FIXED_KEYS = frozenset(
    {"training.sequence_length", "training.global_batch_size", "eval.max_batches"}
)
"""What a started stage has already built on: its data, its model, which samples a step takes and a
validation measures."""
SCHEDULED_KEYS = (
    "data.mixture",
    "data.max_epochs",
    "data.prefetch",
    "data.num_threads",
    "training.global_batch_size",
)
"""What a pretraining stage may change all the same: the schedule that its checkpoints hold says
from which sample on, so none is lost or repeated; or it changes no batch."""


@dataclass(frozen=True)
class Change:
    """One value that differs between two recipes."""

    key: str
    """As in an override: ``seed``, or ``pretrain.training.max_steps``."""
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.old)} -> {_shown(self.new)}"


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
        return max(runs.values(), key=_last_change_ns)
    if target in runs:
        return runs[target]
    matches = [name for name in runs if name.startswith(target)]
    if len(matches) != 1:
        found = f"{len(matches)} that start so" if matches else "none of that name"
        raise _no_run(f"run {target}", found, matches or list(runs))
    return runs[matches[0]]


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


def open_run(run: RunFolder, loaded: LoadedRecipe) -> bool:
    """Write the recipe into a new run folder, or check that an existing one is of that recipe.

    The ``launch`` section may differ; the folder then takes the new one. The caller holds the
    lock of the run.

    Returns:
        Whether the run is new.

    Raises:
        PreflightError: The folder is of another recipe; names what differs.
    """
    is_new = not run.resolved.exists()
    if not is_new:
        _refuse_other_recipe(run, read_resolved(run.resolved), loaded.recipe)
    write_json(run.environment, describe_environment())
    write_text(run.recipe, loaded.text) if is_new else None
    write_text(run.resolved, dump_resolved(loaded.recipe))  # last: it makes the folder a run
    return is_new


def change_run(run: RunFolder, recipe: Recipe) -> list[Change]:
    """Give an existing run new values, as ``resume`` does, and return what changed.

    Raises:
        PreflightError: A value that a started stage has already built on, or of a stage that is
            done; nothing was changed.
    """
    changes = compare_recipes(read_resolved(run.resolved), recipe)
    states = {name: read_json(run.stage(name).state) for name in recipe.stages}
    started = {name for name in recipe.stages if _has_begun(run, name)}
    done = {name for name, state in states.items() if state and state["state"] == "done"}
    frozen = [
        change
        for change in changes
        if _is_fixed(change.key, started, done) and not _is_scheduled(change.key, recipe, done)
    ]
    if frozen:
        raise PreflightError(
            f"run {run.root.name}",
            f"the change {'; '.join(map(str, frozen[:SHOWN_CHANGES]))}",
            "changes of launch, or of what no started stage has built on (data, model, order)",
            "Leave it out to go on with this run, or start a new one: "
            f"distrain run {run.resolved} name=OTHER {frozen[0].key}=...",
        )
    for change in changes:
        _check_length(run, recipe, change, started)
    write_json(run.environment, describe_environment())
    if changes:
        write_text(run.resolved, dump_resolved(recipe))
    return changes


def compare_recipes(old: Recipe, new: Recipe) -> list[Change]:
    """Return every value that differs, in the order of the recipe."""
    before, after = dict(_leaves(old.model_dump())), dict(_leaves(new.model_dump()))
    return [
        Change(key.removeprefix("stages."), before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def _refuse_other_recipe(run: RunFolder, old: Recipe, new: Recipe) -> None:
    if recipe_fingerprint(old) == recipe_fingerprint(new):
        return
    changes = [c for c in compare_recipes(old, new) if not c.key.startswith("launch.")]
    shown = "; ".join(map(str, changes[:SHOWN_CHANGES]))
    more = len(changes) - SHOWN_CHANGES
    if more > 0:
        shown += "; and " + plural(more, "more value")
    name = run.root.name
    settings = " ".join(f"{c.key}={_shown(c.new)}" for c in changes[:SHOWN_CHANGES])
    raise PreflightError(
        str(run.root),
        f"a run of another recipe: {shown}",
        "a new name, or the recipe that this run was started with",
        "Add name=OTHER for a new run, or change this one with "
        f"`distrain resume {name} {settings}`.",
    )


def _has_begun(run: RunFolder, name: str) -> bool:
    """Tell whether a stage has made anything that a change of its data would contradict.

    One that was refused, or fell before its first checkpoint, has not: the remedy it was given
    may be to change just that. ``prepare`` itself discards parts that were made otherwise.
    """
    folder = run.stage(name)
    state = read_json(folder.state)
    is_done = state is not None and (state["state"] == "done" or state["step"] > 0)
    return is_done or any(folder.checkpoints.glob(f"{STEP_PREFIX}*"))


def _is_fixed(key: str, started: set[str], done: set[str]) -> bool:
    stage, _, rest = key.partition(".")
    if stage == "launch":
        return False
    if stage in ("seed", "version", "name"):
        return bool(started) or stage == "name"
    if stage in done:
        return True
    return stage in started and (rest.partition(".")[0] in FIXED_SECTIONS or rest in FIXED_KEYS)


def _is_scheduled(key: str, recipe: Recipe, done: set[str]) -> bool:
    stage, _, rest = key.partition(".")
    if stage in done or stage not in recipe.stages or recipe.stages[stage].kind != "pretrain":
        return False
    return any(rest == known or rest.startswith(f"{known}.") for known in SCHEDULED_KEYS)


def _check_length(run: RunFolder, recipe: Recipe, change: Change, started: set[str]) -> None:
    """Refuse another batch size where the number of steps follows from it.

    Counted in steps of the new size from the first one on, the stage would end where nobody means
    it to.

    Raises:
        PreflightError: It is so; says how many steps are left.
    """
    name, _, key = change.key.partition(".")
    if name not in started or key != "training.global_batch_size":
        return
    training = recipe.stages[name].training  # type: ignore[union-attr]
    if training.max_steps is not None:
        return
    length = "max_tokens" if training.max_tokens is not None else "num_epochs"
    made = (read_json(run.stage(name).state) or {"step": 0})["step"]
    planned = (read_json(run.stage(name).data) or {"max_steps": made})["max_steps"]
    steps = made + max(0, planned - made) * change.old // change.new
    raise PreflightError(
        f"run {run.root.name}",
        f"the change {change}, with training.{length}",
        "a length in steps: the batch size was another one before",
        f"Add {name}.training.max_steps={steps} {name}.training.{length}=null: after {made} "
        f"steps, what is left of the {planned} planned ones are {steps - made} of the new size.",
    )


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _shown(value: Any) -> str:  # noqa: ANN401  (any value of a recipe)
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(str, value)) + "]"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _run_folders() -> list[Path]:
    root = runs_dir()
    if not root.is_dir():
        return []
    return [folder for folder in sorted(root.iterdir()) if RunFolder(folder).resolved.is_file()]


def _last_change_ns(run: RunFolder) -> int:
    newest = run.events if run.events.exists() else run.resolved
    return newest.stat().st_mtime_ns


def _no_run(where: str, found: str, names: list[str]) -> NotFoundError:
    return NotFoundError(
        where,
        found,
        "one of: " + ", ".join(names) if names else f"a run in {runs_dir()}",
        f"Start one with `distrain run RECIPE`, or set {RUNS_DIR_VARIABLE} to where the runs are.",
    )
