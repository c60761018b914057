"""What commands print: the result on stdout, as text or in the one JSON form; hints on stderr."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from distrain.errors import DistrainError, ExitCode
from distrain.runs.command import as_typed, typed_command
from distrain.runs.records import json_text

if TYPE_CHECKING:
    from distrain.runs.folder import RunFolder

MAX_NEXT = 3


@dataclass(frozen=True)
class Shown:
    """What a command shows.

    Args:
        result: For JSON.
        text: The same for people; with an end of line only where it is kept.
        run: It is about.
        next_steps: Commands that make sense now, without the name of ``distrain`` itself.
        notes: What is legal but may surprise; the text has them already.
        exit_code: Of the command.
    """

    result: Any
    text: str
    run: "RunFolder | None" = None
    next_steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    exit_code: ExitCode = ExitCode.DONE


def show(command: str, shown: Shown, *, as_json: bool) -> None:
    """Print what a command shows, and end with its exit code unless that is 0."""
    if as_json:
        typer.echo(document(command, shown))
    else:
        if shown.text:
            typer.echo(as_typed(shown.text), nl=not shown.text.endswith("\n"))
        if shown.next_steps:
            typer.echo(next_line(shown.next_steps), err=True)
    if shown.exit_code is not ExitCode.DONE:
        raise typer.Exit(shown.exit_code)


def document(command: str, shown: Shown, errors: Sequence[Mapping[str, Any]] = ()) -> str:
    """Write the one JSON form of all commands; described in docs/commands.md."""
    content = {
        "command": command,
        "exit_code": int(shown.exit_code),
        "run": shown.run.root.name if shown.run is not None else None,
        "folder": str(shown.run.root) if shown.run is not None else None,
        "result": shown.result,
        "notes": list(shown.notes),
        "next": [f"{typed_command()} {step}" for step in shown.next_steps],
        "errors": list(errors),
    }
    return json_text(content, indent=2)


def error_document(command: str, error: Exception, code: ExitCode) -> str:
    """Write the JSON form of a command that failed."""
    parts = getattr(error, "problems", None) or (error,)
    return document(command, Shown(None, "", exit_code=code), [_error(part) for part in parts])


def next_line(steps: Sequence[str]) -> str:
    """Write at most three commands to go on with."""
    return "next    " + " | ".join(f"{typed_command()} {step}" for step in steps[:MAX_NEXT])


@contextmanager
def results_apart(as_json: bool) -> Iterator[None]:
    """Keep stdout for the JSON at the end: what is printed on the way goes to stderr."""
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def _error(error: Any) -> dict[str, Any]:  # noqa: ANN401  (an exception, or a problem of a recipe)
    place = getattr(error, "place", None)
    if place is not None:
        return {
            "where": place.file,
            "line": place.line or None,
            "column": place.column or None,
            "message": as_typed(error.message),
        }
    where = error.where if isinstance(error, DistrainError) and error.found else None
    words = getattr(error, "format_message", lambda: str(error))  # of click: as in the terminal
    text = as_typed(words())
    message = text.removeprefix(f"{where}: ") if where is not None else text
    return {"where": where, "line": None, "column": None, "message": message}


def say(line: str) -> None:
    """Show progress: on stderr, so that stdout holds results only."""
    sys.stderr.write(as_typed(line) + "\n")
    sys.stderr.flush()
