"""One launcher a run: a lock that lives exactly as long as the process that holds it."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distrain.errors import PreflightError

ORPHAN_PATIENCE_S = 10.0
"""Processes of a killed launcher end by themselves within 5 s; a new launcher waits that out."""
POLL_S = 0.1


def is_held(path: Path) -> bool:
    """Tell whether a living process holds the lock; a file left behind means nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def wait_until_free(path: Path, patience_s: float, message: Callable[[], PreflightError]) -> None:
    """Wait for the holder of a lock to end.

    Raises:
        PreflightError: What ``message`` makes; the lock is still held after ``patience_s``.
    """
    deadline = time.monotonic() + patience_s
    while is_held(path):
        if time.monotonic() > deadline:
            raise message()
        time.sleep(POLL_S)


@contextmanager
def hold(path: Path, run: str, patience_s: float = ORPHAN_PATIENCE_S) -> Iterator[None]:
    """Hold the lock of ``run`` until the block, or this process, ends.

    Raises:
        PreflightError: Another living process still holds it after ``patience_s`` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + patience_s
    try:
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise in_use(path, run)
            time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


def in_use(path: Path, run: str) -> PreflightError:
    """Return the error of a second process on the same run."""
    return PreflightError(
        str(path),
        f"another living process that works on run '{run}'",
        "one process a run",
        f"Watch it with `distrain status {run}`, end it with `distrain stop {run}`, "
        "or give this run a name of its own with name=OTHER.",
    )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
