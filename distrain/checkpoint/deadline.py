"""The longest that a save may take; beyond it, this process ends."""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable

from distrain.errors import ExitCode

REPORT_S = 10.0
"""For the report, which goes to a file system that may be what hangs."""


class Deadline:
    """Ends this process unless it is met.

    A save can hang in a file system, in a device, or in wait for a rank that hangs there, and in
    two threads. Nothing but its end gets a process out of all of these; whoever started the ranks
    starts them again from the last checkpoint.

    Args:
        seconds: From now on.
        report: Called in a thread of its own before the end.
    """

    def __init__(self, seconds: float, report: Callable[[], None]) -> None:
        self._report = report
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def met(self) -> None:
        """Let the process live."""
        self._timer.cancel()

    def _expire(self) -> None:
        reporting = threading.Thread(target=self._say, name="deadline-report", daemon=True)
        reporting.start()
        reporting.join(REPORT_S)
        os._exit(ExitCode.BUG)  # an ordinary exit would wait for what hangs

    def _say(self) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or 2)  # where each thread is: the only trace
        self._report()
