"""The ``distrain`` command: its grammar, and the boundary where errors become messages and codes.

Every command imports what it needs when it runs, so that ``--help`` answers at once.
``key=value`` is recipe content, a flag is behaviour of the command; results go to stdout,
progress to stderr.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distrain.errors import ExitCode
from distrain.runs.records import json_text
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
from launcher.commands.boundary import call
from launcher.commands.data_commands import app as data_app

if TYPE_CHECKING:
    from distrain.runs.folder import RunFolder
    from launcher.backends.slurm.queue import SubmittedJob

app = typer.Typer(
    name="distrain",
    help="From raw text to a fine-tuned, exported language model, from one recipe.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would take longer to import than the rest of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")


@app.callback(invoke_without_command=True)
def distrain(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """From raw text to a fine-tuned, exported language model, from one recipe."""
    if version:
        from distrain import __version__

        typer.echo(f"distrain {__version__}")
        raise typer.Exit


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this recipe.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy it into this folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the shipped recipes, show one, or copy one."""
    from launcher.commands import show
    from launcher.resources import copy_recipe, find_recipe, shipped_recipes

    if name is None:
        found = shipped_recipes()
        if as_json:
            _echo_json([{"name": r.name, "summary": r.summary, "path": str(r.path)} for r in found])
        else:
            typer.echo(show.recipe_list(found))
    elif copy:
        target = copy_recipe(name, Path.cwd())
        typer.echo(target.name)
        typer.echo(show.next_line(f"validate {target.name}", f"run {target.name}"), err=True)
    else:
        typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@app.command()
def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Every key with its default, as a page to read.")
    ] = False,
) -> None:
    """Print the JSON Schema of recipes, for editors."""
    from distrain.config.reading.load import json_schema
    from distrain.config.reading.reference import recipe_reference

    if markdown:
        typer.echo(recipe_reference(), nl=False)
    else:
        _echo_json(json_schema())


@app.command()
def validate(
    recipe: RecipeArgument, overrides: OverridesArgument = None, as_json: JsonOption = False
) -> None:
    """Check a recipe; shows every mistake at once."""
    from launcher import planning
    from launcher.commands import show
    from launcher.run_files import run_of

    loaded = planning.load(recipe, overrides or ())
    plan = planning.plan_recipe(loaded.recipe, run_of(loaded.recipe))
    notes = [*loaded.notes, *planning.unseen_files(loaded.recipe)]
    if as_json:
        _echo_json({"valid": True, "notes": notes})
        return
    typer.echo(show.validation_summary(loaded, plan, notes))
    for note in notes:
        typer.echo(f"note: {note}")


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    script: Annotated[
        bool, typer.Option("--script", help="Print exactly what would be started.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what would run, and the exact commands."""
    _show_plan(recipe, overrides or (), script=script, as_json=as_json)


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    only: OnlyOption = None,
    start: FromOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Run a recipe on this machine, or go on with it."""
    from launcher import planning
    from launcher.commands import actions

    if dry_run:
        _show_plan(recipe, overrides or ())
        return
    loaded = planning.load(recipe, overrides or ())
    selection = actions.Selection(tuple(only or ()), start)
    _finish(*actions.run_recipe(loaded, selection))


@app.command()
def submit(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    only: OnlyOption = None,
    start: FromOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Queue the jobs of a recipe with Slurm."""
    from launcher import planning
    from launcher.commands import actions

    if dry_run:
        _show_plan(recipe, overrides or (), script=True)
        return
    loaded = planning.load(recipe, overrides or ())
    _show_queued(*actions.submit_recipe(loaded, actions.Selection(tuple(only or ()), start)))


@app.command()
def resume(
    targets: RunAndOverrides = None,
    only: OnlyOption = None,
    start: FromOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Go on with a run from its last good checkpoint."""
    from launcher.commands import actions
    from launcher.run_files import find_run

    target, overrides = _split_target(targets or [])
    if dry_run:
        _show_plan(str(find_run(target).resolved), overrides)
        return
    selection = actions.Selection(tuple(only or ()), start)
    found, outcome = actions.resume_run(target, overrides, selection)
    if isinstance(outcome, ExitCode):
        _finish(found, outcome)
    else:
        _show_queued(found, outcome)


@app.command()
def status(target: RunArgument = None, as_json: JsonOption = False) -> None:
    """Show where the stages of a run stand."""
    from distrain.config.reading.load import read_resolved
    from launcher.commands.status import run_status, status_table, with_queue_notes
    from launcher.run_files import find_run

    found = find_run(target)
    rows = with_queue_notes(found, run_status(found, read_resolved(found.resolved)))
    if as_json:
        _echo_json([row.to_json() for row in rows])
    else:
        typer.echo(status_table(rows))


@app.command()
def logs(
    target: RunArgument = None,
    stage: Annotated[str | None, typer.Option("--stage", help="Default: the latest.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Default: the latest.")] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Last lines of the rank that failed first.")
    ] = False,
) -> None:
    """Print what the processes of a stage wrote."""
    from distrain.config.reading.load import read_resolved
    from launcher.run_files import find_run
    from launcher.watch.logs import failure_excerpt, find_log

    found = find_run(target)
    path = find_log(found, list(read_resolved(found.resolved).stages), stage, attempt)
    text = path.read_text(encoding="utf-8", errors="replace")
    typer.echo(str(path), err=True)
    typer.echo(failure_excerpt(text) if errors else text.rstrip("\n"))


@app.command()
def stop(
    target: RunArgument = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what runs.")] = False,
) -> None:
    """Ask a run to save and end, and wait for it."""
    from launcher.commands import actions, show
    from launcher.run_files import find_run

    if dry_run:
        found = find_run(target)
        typer.echo(show.running_text(found, actions.running_stages(found)))
        return
    found, stopped = actions.stop_run(target, timeout)
    typer.echo(show.stopped_text(found, stopped))
    if not stopped.ended:
        raise typer.Exit(ExitCode.STOPPED)


@app.command()
def report(target: RunArgument = None) -> None:
    """Write one offline HTML file about a run."""
    from launcher.commands.show import shown_path
    from launcher.report.page import write_report
    from launcher.run_files import find_run
    from launcher.text import short_bytes

    path = write_report(find_run(target))
    typer.echo(f"{shown_path(path)}  {short_bytes(path.stat().st_size)}  (opens offline)")


@app.command()
def export(target: RunArgument = None) -> None:
    """Write the model as a Hugging Face folder."""
    from launcher.commands import actions, show

    found, stages, code = actions.run_kind(target, "export")
    _exit_unless_done(code)
    for name in stages:
        typer.echo(show.shown_path(found.stage(name).huggingface))
    prompt = show.prompt_of(found)
    typer.echo(show.next_line(f"generate {found.root.name} {prompt}"), err=True)


@app.command()
def evaluate(
    target: RunArgument = None,
    again: Annotated[
        bool, typer.Option("--again", help="Use the test split knowingly once more.")
    ] = False,
) -> None:
    """Measure the model on the test split, once."""
    from distrain.runs.records import read_json
    from launcher.commands import actions

    found, stages, code = actions.run_kind(target, "evaluate", ("--again",) if again else ())
    _exit_unless_done(code)
    _echo_json({name: read_json(found.stage(name).result) for name in stages})


@app.command()
def generate(  # noqa: PLR0913
    target: Annotated[str, typer.Argument(metavar="RUN", help="A run, or a Hugging Face folder.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add, at most.", min=1)] = 64,
    temperature: Annotated[
        float, typer.Option(help="1: as the model gives it; 0: the likeliest token.", min=0.0)
    ] = 0.8,
    repetition_penalty: Annotated[
        float, typer.Option(help="On tokens that are there already; 1: none.", min=1.0)
    ] = 1.1,
    seed: Annotated[
        int, typer.Option(help="Of the draws: the same one gives the same text.", min=0)
    ] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's turn.")] = False,
) -> None:
    """Print a completion of a prompt."""
    from launcher.commands import actions

    arguments = [
        f"--max-new-tokens={max_new_tokens}",
        f"--temperature={temperature}",
        f"--repetition-penalty={repetition_penalty}",
        f"--seed={seed}",
        *(["--chat"] if chat else []),
        *("--", prompt),  # which may begin with a dash
    ]
    raise typer.Exit(actions.generate(target, arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; what the console script calls."""
    return call(app, argv)


def _show_plan(
    recipe: str, overrides: Sequence[str], *, script: bool = False, as_json: bool = False
) -> None:
    from launcher import planning
    from launcher.commands import show
    from launcher.run_files import run_of

    loaded = planning.load(recipe, overrides)
    planned = planning.plan_recipe(loaded.recipe, run_of(loaded.recipe))
    if as_json:
        _echo_json(show.plan_json(loaded, planned))
        return
    typer.echo(show.plan_text(loaded, planned))
    if script:
        typer.echo()
        typer.echo(planning.script_text(planned))


def _split_target(targets: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell a run's name from the overrides after it."""
    if targets and "=" not in targets[0]:
        return targets[0], list(targets[1:])
    return None, list(targets)


def _finish(run: "RunFolder", code: ExitCode) -> None:
    from distrain.config.reading.load import read_resolved
    from launcher.commands.show import next_steps
    from launcher.commands.status import run_status, status_table

    rows = run_status(run, read_resolved(run.resolved))
    typer.echo(status_table(rows))
    is_done = all(row.state == "done" for row in rows)  # not with --only and stages left
    typer.echo(next_steps(run, done=is_done), err=True)
    _exit_unless_done(code)


def _show_queued(run: "RunFolder", jobs: "list[SubmittedJob]") -> None:
    from launcher.commands import show

    typer.echo(show.queued_text(run, jobs))
    name = run.root.name
    typer.echo(show.next_line(f"status {name}", f"logs {name}", f"stop {name}"), err=True)


def _exit_unless_done(code: ExitCode) -> None:
    if code is not ExitCode.DONE:
        raise typer.Exit(code)


def _echo_json(value: object) -> None:
    typer.echo(json_text(value, indent=2))
