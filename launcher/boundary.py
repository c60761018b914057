"""Where errors of the launcher meet the user: each becomes a message on stderr and an exit code."""

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

import typer

from distrain.errors import DistrainError, ExitCode

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Of click, or of the copy that newer versions of typer carry; exported by neither name."""


def call(app: typer.Typer, argv: Sequence[str] | None) -> int:
    """Run a command line and return its exit code."""
    try:
        code = app(None if argv is None else list(argv), standalone_mode=False)
        return int(code or 0)
    except DistrainError as error:
        text = str(error)
        _complain(text if text.startswith("error: ") else f"error: {text}")
        return error.exit_code
    except USAGE_ERROR as error:
        error.show()  # type: ignore[attr-defined]
        return ExitCode.USAGE
    except (typer.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # as in `distrain logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except Exception as error:  # noqa: BLE001  (the process boundary)
        _complain(f"error: {type(error).__name__}: {error}")
        _complain(f"This is a defect of distrain; the traceback is in {_write_traceback()}")
        return ExitCode.BUG


def _complain(text: str) -> None:
    typer.echo(text, err=True)


def _write_traceback() -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="distrain-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exc(file=file)
    return file.name
