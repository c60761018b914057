"""Commands that start and end runs: run, submit, resume, stop."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from distrain.errors import ExitCode
from launcher.commands.arguments import (
    DryRunOption,
    FromOption,
    JsonOption,
    OnlyOption,
    OverridesArgument,
    RecipeArgument,
    RunAndOverrides,
    RunArgument,
)
from launcher.commands.output import Shown, results_apart, show
from launcher.commands.recipe_commands import show_plan

if TYPE_CHECKING:
    from distrain.runs.folder import RunFolder
    from launcher.backends.protocol import SubmittedJob


def run(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    only: OnlyOption = None,
    start: FromOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe on this machine, or go on with it."""
    from launcher import planning
    from launcher.commands import actions
    from launcher.run_files import run_of

    loaded = planning.load_to_start(recipe, overrides or ())
    if dry_run:
        show_plan("run", loaded, run_of(loaded.recipe), script=False, as_json=as_json)
        return
    with results_apart(as_json):
        found, code = actions.run_recipe(loaded, actions.Selection(tuple(only or ()), start))
    show("run", _ended(found, code), as_json=as_json)


def submit(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    only: OnlyOption = None,
    start: FromOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Queue the jobs of a recipe with Slurm."""
    from launcher import planning
    from launcher.commands import actions
    from launcher.run_files import run_of

    loaded = planning.load_to_start(recipe, overrides or ())
    if dry_run:
        show_plan("submit", loaded, run_of(loaded.recipe), script=True, as_json=as_json)
        return
    found, jobs = actions.submit_recipe(loaded, actions.Selection(tuple(only or ()), start))
    show("submit", _queued(found, jobs), as_json=as_json)


def resume(
    targets: RunAndOverrides = None,
    only: OnlyOption = None,
    start: FromOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run from its last good checkpoint."""
    from launcher import planning
    from launcher.commands import actions
    from launcher.run_files import find_run

    target, overrides = _split_target(targets or [])
    found = find_run(target)
    loaded = planning.load_to_resume(found, overrides)
    if dry_run:
        show_plan("resume", loaded, found, script=False, as_json=as_json)
        return
    selection = actions.Selection(tuple(only or ()), start)
    with results_apart(as_json):
        outcome = actions.resume_run(found, loaded, selection)
    if isinstance(outcome, ExitCode):
        show("resume", _ended(found, outcome), as_json=as_json)
    else:
        show("resume", _queued(found, outcome), as_json=as_json)


def stop(
    target: RunArgument = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what runs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a run to save and end, and wait for it."""
    from distrain.config.reading.load import read_resolved
    from launcher.backends.backend import running_stages
    from launcher.commands import actions
    from launcher.commands.show import running_text, stopped_text
    from launcher.run_files import find_run

    if dry_run:
        found = find_run(target)
        running = running_stages(found, read_resolved(found.resolved))
        shown = Shown({"running": running}, running_text(found, running), found)
    else:
        found, stopped = actions.stop_run(target, timeout)
        code = ExitCode.DONE if stopped.ended else ExitCode.STOPPED
        shown = Shown(vars(stopped), stopped_text(found, stopped), found, exit_code=code)
    show("stop", shown, as_json=as_json)


def _split_target(targets: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell a run's name from the overrides after it."""
    if targets and "=" not in targets[0]:
        return targets[0], list(targets[1:])
    return None, list(targets)


def _ended(run: "RunFolder", code: ExitCode) -> Shown:
    from distrain.config.reading.load import read_resolved
    from launcher.commands.show import next_steps
    from launcher.commands.status import run_status, status_table

    rows = run_status(run, read_resolved(run.resolved))
    is_done = all(row.state == "done" for row in rows)  # not with --only and stages left
    result = {"stages": [row.to_json() for row in rows]}
    return Shown(result, status_table(rows), run, next_steps(run, done=is_done), exit_code=code)


def _queued(run: "RunFolder", jobs: "list[SubmittedJob]") -> Shown:
    from launcher.commands.show import queued_json, queued_text
    from launcher.run_files import name_of

    name = name_of(run)
    steps = (f"status {name}", f"logs {name}", f"stop {name}")
    return Shown({"jobs": queued_json(jobs)}, queued_text(run, jobs), run, steps)
