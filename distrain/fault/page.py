"""This rank's progress page (``distrain.runs.progress_page``), and its stacks when asked for them.

Whoever started this process says in ``DISTRAIN_PAGES`` in which folder; without that, every mark
does nothing. ``mark`` is called wherever a rank comes by often enough: a phase without a mark for
longer than it ever took counts as a hang.
"""

import ctypes
import faulthandler
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distrain.runs.progress_page import (
    PAGES,
    STACK_SIGNAL,
    STACKS,
    WAITS_FOR_FILES,
    PageWriter,
)

PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, -1  # linux/prctl.h

page = PageWriter()
mark = page.mark


class _MarksImports:
    """A finder of modules that finds none: each module that is looked for is a mark."""

    def find_spec(self, *_: object) -> None:
        page.mark()


def open_page() -> None:
    """Begin this process's page, if somebody looks at it. Call it again after a fork."""
    folder = os.environ.get(PAGES)
    if not folder or not Path(folder).is_dir():
        page.close()
        return
    rank = int(os.environ.get("RANK", "0"))
    page.open(Path(folder), rank, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    page.mark("import")
    sys.meta_path.insert(0, _MarksImports())


def be_judged() -> None:
    """Let this process be judged by its marks, and its stacks be seen; see ``open_page``."""
    folder = os.environ.get(PAGES)
    if not folder or not Path(folder).is_dir():
        return
    if sys.platform == "linux":
        # py-spy is no parent of this process, and reads it only if it is let.
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_long(PR_SET_PTRACER_ANY), 0, 0, 0)
    stacks = Path(folder, os.environ.get("RANK", "0") + STACKS)
    # By a handler in C, which needs no lock of the interpreter. The file stays open: opening one
    # may be what hangs.
    faulthandler.register(STACK_SIGNAL, stacks.open("w"), all_threads=True, chain=False)
    page.be_judged(dumps=True)


@contextmanager
def in_file_system() -> Iterator[None]:
    """Say that what follows is a call of a file system: it may take minutes where it took none.

    Not nested: the innermost end would end all.
    """
    page.wait_begins(WAITS_FOR_FILES)
    try:
        yield
    finally:
        page.wait_ends()


def begin_work(phase: str) -> None:
    """Begin the phase of a stage that does not train; each module it imports stays a mark."""
    page.begin_work(phase)


def begin_steps(first: int) -> None:
    """From now on, phases are measured; ``first``: steps made before."""
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _MarksImports)]
    page.begin_steps(first)
