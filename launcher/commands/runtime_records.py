"""Records that a process of the runtime writes for ``distrain data``, one a line."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from distrain.errors import ExitCode, PreflightError

NEEDED_MODULES = ("numpy", "tokenizers", "xxhash", "zstandard")


def read_records(arguments: Sequence[str], told: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield what the runtime's process writes; it is ended if nobody reads on.

    Args:
        arguments: Of ``python -m distrain data``.
        told: It reads this on its standard input.

    Raises:
        typer.Exit: It failed, with its code; it has said why.
    """
    missing = [name for name in NEEDED_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise PreflightError(
            "this Python environment",
            f"no {', '.join(missing)}",
            "the packages of the extra 'train'",
            'Install them: pip install "distrain[train]".',
        )
    command = [sys.executable, "-m", "distrain", "data", *arguments]
    given = None if told is None else subprocess.PIPE
    with subprocess.Popen(
        command, stdin=given, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as child:
        assert child.stdout is not None
        try:
            if told is not None and child.stdin is not None:
                child.stdin.write(told)
                child.stdin.close()
            for line in child.stdout:
                yield json.loads(line)
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise typer.Exit(child.returncode)


def print_text(text: str) -> None:
    """Write a result, until whoever reads has seen enough (``| head``)."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.DONE) from None
