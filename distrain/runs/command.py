"""The command that a user would type again, for messages that tell them to."""

import shlex
from typing import Any

from distrain.runs.folder import RunFolder
from distrain.runs.records import read_json

SELECTING = ("--only", "--from")
"""Options that choose stages; a message chooses its own."""


def command_again(run: RunFolder, *options: str) -> str:
    """Return the command that last started the run, as it was typed, with other ``options``.

    Where none is known, it is `distrain resume` of the run.
    """
    words = _typed(run)
    if words[:1] == ["run"] or words[:1] == ["submit"]:
        words = _without_selection(words)
    else:  # of a resume, the changes are in the run by now
        words = ["resume", run.root.name]
    return shlex.join(["distrain", *words, *options])


def _typed(run: RunFolder) -> list[str]:
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
