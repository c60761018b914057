"""How long this rank's loop has waited for other ranks, whatever of torch it waits through.

Host collectives, FSDP2 and ZeRO all come to ``Work.wait`` of a collective, which is timed here;
DDP waits inside of its own backward pass, and its engine says how long. On a GPU those return at
once, as only the device waits there: what remains are the host's own collectives.

A rank that could not run, because no core was free, did not work meanwhile either. That is counted
with its waits, so that the noise of a shared machine looks alike on all ranks.
"""

import math
import os
import threading
import time
from typing import Any

from torch._C._distributed_c10d import Work


class Waits:
    """The waits of one thread; nothing is counted before ``begin``."""

    def __init__(self) -> None:
        self._waited_s = 0.0
        self._thread = 0
        self._schedule: int | None = None
        self.last_share = math.nan
        """Of the last step; NaN: none was measured yet."""

    def begin(self) -> None:
        """Count those of the calling thread from now on; again, in a forked child."""
        self._thread = threading.get_ident()
        path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        try:
            self._schedule = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # a kernel without that count
            self._schedule = None
        # There is no hook: all of torch's own collectives in Python come by here.
        setattr(Work, "wait", _timed_wait)  # noqa: B010  (a method, for mypy)

    def add(self, seconds: float) -> None:
        """Count a wait, if it was that thread's."""
        if threading.get_ident() == self._thread:
            self._waited_s += seconds

    def idle_s(self) -> float:
        """Return for how long in all the thread has waited for ranks, or for a core."""
        if self._schedule is None:
            return self._waited_s
        # The second figure: nanoseconds for which it was ready to run and did not.
        return self._waited_s + int(os.pread(self._schedule, 64, 0).split()[1]) / 1e9


waits = Waits()
_wait = Work.wait


def _timed_wait(work: Work, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401  (torch's own)
    started = time.perf_counter()
    try:
        return _wait(work, *arguments, **options)
    finally:
        waits.add(time.perf_counter() - started)
