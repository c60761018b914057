"""What the commands that act do: run, resume, stop, and stages that are started by their kind."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from distrain.config.reading.load import LoadedRecipe, read_resolved
from distrain.config.recipe import Recipe, measures_own_data
from distrain.errors import ExitCode, NotFoundError, RecipeError
from distrain.runs.folder import RunFolder
from distrain.runs.lock import hold, is_held
from distrain.runs.products import check_sources
from distrain.runs.records import append_event, is_done
from launcher.backends.backend import (
    BACKENDS,
    HERE,
    backend_of,
    is_on_one_machine,
    running_stages,
)
from launcher.backends.needs import check_needs
from launcher.backends.protocol import Backend, SubmittedJob, Surroundings
from launcher.commands.asking import no_export
from launcher.commands.holdings_text import placement_notes
from launcher.commands.output import say
from launcher.commands.reopen import reopen_damaged
from launcher.plan import Plan, select_stages
from launcher.planning import plan_recipe
from launcher.run_changes import Change
from launcher.run_files import (
    change_run,
    committed_step,
    find_run,
    make_folder,
    open_run,
    run_of,
)
from launcher.watch.display import display_factory

Outcome = ExitCode | list[SubmittedJob]
"""How a run ended here, or what was queued."""
STOP_POLL_S = 0.25


@dataclass(frozen=True)
class Selection:
    """Which stages a command is for; all of them by default."""

    only: tuple[str, ...] = ()
    start: str | None = None
    """``--from``: this stage and those after it."""


@dataclass(frozen=True)
class Stopped:
    """What came of a wish to stop."""

    asked: bool
    """False: nothing was running."""
    ended: bool
    seconds: float
    steps: dict[str, int]
    """Last committed step of each stage that was running."""


def run_recipe(loaded: LoadedRecipe, selection: Selection) -> tuple[RunFolder, ExitCode]:
    """Run a recipe here, in a new folder or in the one that an earlier start left."""
    run, outcome = _start_recipe(loaded, selection, is_queued=False)
    assert isinstance(outcome, ExitCode)
    return run, outcome


def submit_recipe(
    loaded: LoadedRecipe, selection: Selection
) -> tuple[RunFolder, list[SubmittedJob]]:
    """Queue a recipe, in a new folder or in the one that an earlier start left."""
    run, outcome = _start_recipe(loaded, selection, is_queued=True)
    assert isinstance(outcome, list)
    return run, outcome


def resume_run(run: RunFolder, loaded: LoadedRecipe, selection: Selection) -> Outcome:
    """Go on with a run from its last good checkpoint, with new values where that is possible.

    Returns:
        How it ended here, or what was queued.
    """
    plan = plan_recipe(loaded.recipe, run)
    backend = backend_of(loaded.recipe.launch)
    _say_notes(backend.check(plan))
    with hold(run.lock, run.root.name):
        _say_changes(change_run(run, loaded.recipe))
        if not backend.is_queued:
            say(f"run {run.root.name} in {run.root}: goes on")
        return _start(plan, selection, backend)


def run_kind(
    target: str | None, kind: str, arguments: tuple[str, ...] = ()
) -> tuple[RunFolder, tuple[str, ...], ExitCode]:
    """Run the stages of one kind of an existing run, such as ``evaluate``, as one process here.

    Returns:
        The run, the names of those stages, and how they ended.
    """
    run = find_run(target)
    recipe = read_resolved(run.resolved)
    names = tuple(name for name, stage in recipe.stages.items() if stage.kind == kind)
    if not names:
        raise NotFoundError(
            f"a stage of kind {kind} in run {run.root.name}",
            "none",
            f"a recipe with a stage of kind {kind}",
            f"Add `{kind}: {{kind: {kind}, needs: STAGE}}` to the recipe's stages.",
        )
    only = names
    if not arguments and all(is_done(run, name) for name in names):
        for name in names:
            check_sources(run, name)
            if kind == "export" and not run.stage(name).huggingface.is_dir():
                raise no_export(run, name)
        only = tuple(name for name in names if measures_own_data(recipe.stages[name]))
        if not only:
            return run, names, ExitCode.DONE  # no lock: the folder may be another's, or read-only
        arguments = ("--again",)  # of these alone: the test split stays as it is
    plan = plan_recipe(recipe, run)
    with hold(run.lock, run.root.name):
        ended = _start(plan, Selection(only=only), HERE, arguments)
        assert isinstance(ended, ExitCode)
        return run, names, ended


def stop_run(target: str | None, patience_s: float) -> tuple[RunFolder, Stopped]:
    """Ask a run to save and end, and wait until it has."""
    run = find_run(target)
    recipe = read_resolved(run.resolved)
    running = running_stages(run, recipe)
    is_here = is_on_one_machine(recipe.launch)
    if is_here and not running and not is_held(run.lock):
        return run, Stopped(asked=False, ended=True, seconds=0.0, steps={})
    run.control.mkdir(parents=True, exist_ok=True)
    run.stop.touch()
    for name, attempt in running.items():
        append_event(run.events, "stop_requested", name, attempt=attempt)
    backend_of(recipe.launch).cancel(run, recipe.stages)
    started = time.monotonic()
    ended = False
    while not ended and time.monotonic() - started < patience_s:
        time.sleep(STOP_POLL_S)
        ended = not is_held(run.lock) and not running_stages(run, recipe)
    steps = {name: committed_step(run, name) for name in running}
    return run, Stopped(True, ended, time.monotonic() - started, steps)


def _start_recipe(
    loaded: LoadedRecipe, selection: Selection, *, is_queued: bool
) -> tuple[RunFolder, Outcome]:
    run = run_of(loaded.recipe)
    _require_backend(loaded.recipe, is_queued=is_queued)
    plan = plan_recipe(loaded.recipe, run)
    backend = backend_of(loaded.recipe.launch)
    # Before the run folder becomes that of a run that cannot be started here.
    _say_notes([*loaded.notes, *placement_notes(plan), *backend.check(plan)])
    make_folder(run)
    with hold(run.lock, run.root.name):
        changes = open_run(run, loaded)
        _say_changes(changes)
        if not is_queued:
            say(f"run {run.root.name} in {run.root}" + ("" if changes is None else ": goes on"))
        return run, _start(plan, selection, backend)


def _start(
    plan: Plan, selection: Selection, backend: Backend, arguments: tuple[str, ...] = ()
) -> Outcome:
    stages = select_stages(plan, selection.only, selection.start)
    check_needs(plan, stages)
    if selection.start is not None:
        reopen_damaged(plan, selection.start, say)
    around = Surroundings(say, display_factory(sys.stderr), arguments=arguments)
    return backend.start(plan, stages, around)


def _say_notes(notes: Sequence[str]) -> None:
    for note in notes:
        say(f"note: {note}")


def _say_changes(changes: list[Change] | None) -> None:
    for change in changes or ():
        say(f"changed {change}")


def _require_backend(recipe: Recipe, *, is_queued: bool) -> None:
    backend = recipe.launch.backend
    if backend_of(recipe.launch).is_queued is is_queued:
        return
    fitting = [name for name, other in BACKENDS.items() if other.is_queued is is_queued]
    raise RecipeError(
        "launch.backend",
        backend,
        f"{' or '.join(fitting)} for this command",
        f"Use `distrain {'run' if is_queued else 'submit'}`, or add launch.backend={fitting[0]}.",
    )
