"""The command that the user types: messages name what was typed, and how it is typed again."""

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distrain.runs.folder import RunFolder
from distrain.runs.records import read_json

VARIABLE = "DISTRAIN_COMMAND"
"""How the launcher tells the processes it starts."""
NAME = "distrain"
COMMANDS = (
    *("recipes", "schema", "validate", "plan", "run", "submit", "resume", "stop"),
    *("list", "status", "logs", "report", "prove", "export", "evaluate", "generate"),
    *("chaos", "data"),
)
NAMED = re.compile(rf"(?<![\w/.-]){NAME} (?=(?:{'|'.join(COMMANDS)})\b)")
"""The name where a message tells what to type."""
SELECTING = ("--only", "--from")
"""Options that choose stages; a message chooses its own."""


def command_of(argv0: str, python: str) -> str:
    """Return what a user types to get this process again, without its arguments.

    Args:
        argv0: ``sys.argv[0]``.
        python: The interpreter as it was typed: the first of ``sys.orig_argv``.
    """
    path = Path(argv0)
    if path.name == "__main__.py" and path.parent.name == "launcher":
        return shlex.join([python, "-m", "launcher"])
    if path.name != NAME:
        return NAME
    found = shutil.which(NAME)
    if found is not None and path.exists() and Path(found).samefile(path):
        return NAME
    return shlex.quote(argv0)


def remember_command(argv: Sequence[str], orig_argv: Sequence[str]) -> None:
    """Take down how this process was started, for it and for those that it starts."""
    os.environ[VARIABLE] = command_of(argv[0], orig_argv[0])


def typed_command() -> str:
    """Return the command as the user typed it; ``distrain`` where nobody took it down."""
    return os.environ.get(VARIABLE) or NAME


def as_typed(text: str) -> str:
    """Return a message in which every command is written as the user typed it."""
    command = typed_command()
    return text if command == NAME else NAMED.sub(lambda _: f"{command} ", text)


def command_again(run: RunFolder, *options: str) -> str:
    """Return the command that last started the run, as it was typed, with other ``options``.

    Where none is known, it is `distrain resume` of the run.
    """
    words = _recorded_words(run)
    if words[:1] == ["run"] or words[:1] == ["submit"]:
        words = _without_selection(words)
    else:  # of a resume, the changes are in the run by now
        words = ["resume", run.root.name]
    return shlex.join([NAME, *words, *options])


def _recorded_words(run: RunFolder) -> list[str]:
    try:
        recorded: Any = (read_json(run.environment) or {}).get("command")
    except ValueError:
        return []
    if not isinstance(recorded, list):
        return []
    return [str(word) for word in recorded[1:]]  # without the program's path


def _without_selection(words: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in SELECTING:
            skip = True
        elif not word.startswith(tuple(f"{option}=" for option in SELECTING)):
            kept.append(word)
    return kept
