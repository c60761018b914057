"""One writer a folder: a lock that lives exactly as long as the process that holds it."""

import fcntl
import os
import time
from pathlib import Path

from distrain.errors import PreflightError

ORPHAN_PATIENCE_S = 10.0
"""Processes of a killed job end within 5 s by themselves; a new one waits that out."""


def hold(path: Path, patience_s: float = ORPHAN_PATIENCE_S) -> int:
    """Lock ``path`` until this process ends, however it ends; a file left behind means nothing.

    Returns:
        The descriptor that holds the lock; keep it open.

    Raises:
        PreflightError: Another living process still holds it after ``patience_s`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise PreflightError(
                    str(path),
                    "another living process that writes this folder",
                    "one process at a time",
                    "Wait for it to end, or stop it with `distrain stop`.",
                ) from None
            time.sleep(0.1)
        else:
            return descriptor
