"""A process that dies with its parent, so that a killed launcher or agent leaves no orphan."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def dying_with(parent: int) -> Callable[[], None]:
    """Return what asks the kernel to kill its caller when the thread that started that one ends.

    Other systems than Linux have no such call; there, nothing is asked for.

    Args:
        parent: Process id of who must be the parent; if another one is, the caller ends at once.
    """
    if sys.platform != "linux":
        return lambda: None
    # Loaded here: between a fork and an exec, only the call is made.
    libc = ctypes.CDLL(None, use_errno=True)

    def ask_kernel() -> None:
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        # A parent that ended before the call will never be told of: look for it.
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel
