"""Where errors of the launcher meet the user: each becomes a message on stderr and an exit code."""

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

import typer

from distrain.errors import DistrainError, ExitCode, PreflightError
from distrain.runs.command import as_typed, remember_command
from launcher.commands.output import error_document

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Of click, or of the copy that newer versions of typer carry; exported by neither name."""


def call(app: typer.Typer, argv: Sequence[str] | None) -> int:
    """Run a command line and return its exit code."""
    remember_command(sys.argv, sys.orig_argv)
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        code = app(words, standalone_mode=False)
        return int(code or 0)
    except (typer.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001  (the process boundary)
        code = _code_of(error, argv)
        command = _command_for_json(words)
        if command and not isinstance(error, BrokenPipeError):
            typer.echo(error_document(command, error, ExitCode(code)))
        return code


def _command_for_json(words: Sequence[str]) -> str:
    """Return which command was asked for JSON; empty: none."""
    options = words[: words.index("--")] if "--" in words else words
    if "--json" not in options:
        return ""
    names = [word for word in words if not word.startswith("-")][:2]
    return " ".join(names if names[:1] == ["data"] else names[:1])


def _code_of(error: Exception, argv: Sequence[str] | None) -> int:
    if isinstance(error, USAGE_ERROR):
        error.show()  # type: ignore[attr-defined]
        option = str(getattr(error, "option_name", ""))
        setting = _setting_meant(option)
        if setting is not None:
            value = _value_after(option, sys.argv[1:] if argv is None else argv)
            _complain(f"A value of the recipe has no dashes: write {setting}={value}.")
        return ExitCode.USAGE
    if isinstance(error, BrokenPipeError):  # as in `distrain logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    known = error if isinstance(error, DistrainError) else _unfit(error)
    if known is None:
        return _defect(error)
    text = str(known)
    _complain(text if text.startswith("error: ") else f"error: {text}")
    return known.exit_code


def _setting_meant(option: str) -> str | None:
    """Return the setting of a recipe that an unknown option such as ``--learning_rate`` means."""
    from distrain.config.reading.foreign_names import FOREIGN_NAMES
    from distrain.config.reading.sections import SECTIONS, is_section, keys_of, places_of
    from distrain.config.recipe import RecipeHead

    words = option.lstrip("-").replace("-", "_").split(".")
    head = RecipeHead.model_fields.get(option.lstrip("-"))
    if head is not None and not is_section(head.annotation):
        return words[0]
    if len(words) > 1 and words[-2] in SECTIONS and words[-1] in keys_of(words[-2]):
        return ".".join(words)
    places = places_of(words[-1])
    if places:
        return places[0]
    _, here = FOREIGN_NAMES.get(words[-1], ("", ""))
    return here.split()[0].rstrip(",:") or None if here else None


def _value_after(option: str, argv: Sequence[str]) -> str:
    for argument, following in zip(argv, [*argv[1:], "-"], strict=True):
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
        if argument == option and not following.startswith("-"):
            return following
    return "VALUE"


def _unfit(error: Exception) -> PreflightError | None:
    """Say it in our words where the machine, and not distrain, is at fault."""
    remedies = {
        errno.ENOSPC: "Free space",
        errno.EDQUOT: "Free space within your quota",
        errno.EFBIG: "Raise the limit on the size of files (`ulimit -f`)",
        errno.EACCES: "Make it writable",
        errno.EPERM: "Make it writable",
        errno.EROFS: "Make it writable",
    }
    if not isinstance(error, OSError) or error.errno not in remedies:
        return None
    return PreflightError(
        str(error.filename or "a file of the run"),
        f"that it cannot be written or read ({error.strerror})",
        "access, and room",
        f"{remedies[error.errno]} or set DISTRAIN_RUNS_DIR to another place, then run the same "
        "command again.",
    )


def _defect(error: Exception) -> ExitCode:
    _complain(f"error: {type(error).__name__}: {error}")
    _complain(f"This is a defect of distrain; the traceback is in {_write_traceback()}")
    return ExitCode.BUG


def _complain(text: str) -> None:
    typer.echo(as_typed(text), err=True)


def _write_traceback() -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="distrain-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exc(file=file)
    return file.name
