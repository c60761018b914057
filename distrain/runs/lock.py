"""One process a folder: a lock that lives exactly as long as the process that holds it.

The launcher locks the run, the runtime the stage that it writes. A file left behind means nothing.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distrain.errors import PreflightError

ORPHAN_PATIENCE_S = 10.0
"""Processes of a killed launcher end by themselves within 5 s; the next one waits that out."""
POLL_S = 0.1


def acquire(
    path: Path, run: str, patience_s: float = ORPHAN_PATIENCE_S, *, shared: bool = False
) -> int:
    """Take the lock until this process ends, however it ends, or the descriptor is closed.

    Args:
        path: The lock file; made if it is not there.
        run: Name of the run, for the message.
        patience_s: How long to wait for another holder to end.
        shared: Hold it together with others that share it.

    Returns:
        The descriptor that holds the lock.

    Raises:
        PreflightError: Another living process still holds it after ``patience_s`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        _wait(lambda: _try_lock(descriptor, kind), patience_s, lambda: in_use(path, run))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def hold(path: Path, run: str, patience_s: float = ORPHAN_PATIENCE_S) -> Iterator[None]:
    """As ``acquire``, until the block ends."""
    descriptor = acquire(path, run, patience_s)
    try:
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Return whether a living process holds the lock alone."""
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


def wait_until_free(path: Path, run: str, patience_s: float = ORPHAN_PATIENCE_S) -> None:
    """Wait for the holder of a lock to end, without taking it.

    Raises:
        PreflightError: It is still held after ``patience_s`` seconds.
    """
    _wait(lambda: not is_held(path), patience_s, lambda: in_use(path, run))


def in_use(path: Path, run: str) -> PreflightError:
    """Return the error of a second process on the same run."""
    return PreflightError(
        str(path),
        f"another living process that works on run '{run}'",
        "one process a run",
        f"Watch it with `distrain status {run}`, end it with `distrain stop {run}`, "
        "or give this run a name of its own with name=OTHER.",
    )


def _wait(
    is_free: Callable[[], bool], patience_s: float, error: Callable[[], PreflightError]
) -> None:
    deadline = time.monotonic() + patience_s
    while not is_free():
        if time.monotonic() > deadline:
            raise error()
        time.sleep(POLL_S)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
