"""Writes down which modules a process has imported since it was forked, once it ends.

Python imports this before anything else in every process whose ``PYTHONPATH`` names this folder;
``DISTRAIN_TEST_IMPORTS`` names the folder of the files, one a process.
"""

# mypy: ignore-errors
import os
import sys
from pathlib import Path

FOLDER = os.environ.get("DISTRAIN_TEST_IMPORTS")
before = None


def note():
    global before  # noqa: PLW0603
    before = set(sys.modules)


def end(code):
    if before is not None:
        new = sorted(set(sys.modules) - before)
        Path(FOLDER, str(os.getpid())).write_text("\n".join(new))
    leave(code)


if FOLDER:
    leave, os._exit = os._exit, end
    os.register_at_fork(after_in_child=note)
