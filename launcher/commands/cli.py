"""The ``distrain`` command: its grammar, and the boundary where errors become messages and codes.

Every command imports what it needs when it runs, so that ``--help`` answers at once.
``key=value`` is recipe content, a flag is behaviour of the command; results go to stdout,
progress to stderr.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from launcher.commands.boundary import call
from launcher.commands.chaos import chaos
from launcher.commands.data_commands import app as data_app
from launcher.commands.model_commands import evaluate, export, generate
from launcher.commands.prove import prove
from launcher.commands.recipe_commands import plan, recipes, schema, validate
from launcher.commands.run_commands import resume, run, stop, submit
from launcher.commands.watch_commands import list_runs, logs, report, status

app = typer.Typer(
    name="distrain",
    help="From raw text to a fine-tuned, exported language model, from one recipe.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would take longer to import than the rest of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def distrain(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """From raw text to a fine-tuned, exported language model, from one recipe."""
    if version:
        from distrain import __version__

        typer.echo(f"distrain {__version__}")
        raise typer.Exit


COMMANDS: dict[str, Callable[..., None]] = {
    "recipes": recipes,
    "schema": schema,
    "validate": validate,
    "plan": plan,
    "run": run,
    "submit": submit,
    "resume": resume,
    "stop": stop,
    "list": list_runs,
    "status": status,
    "logs": logs,
    "report": report,
    "prove": prove,
    "export": export,
    "evaluate": evaluate,
    "generate": generate,
    "chaos": chaos,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(data_app, name="data")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; what the console script calls."""
    return call(app, argv)
