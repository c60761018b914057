"""A process that ends with its parent, so that a killed launcher or agent leaves no orphan."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
AGENT_PID = "DISTRAIN_AGENT_PID"
"""Environment variable: process id of the torchrun that started this rank."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends.

    torchrun starts its workers from its main thread, and a killed torchrun leaves them running,
    waiting for each other for as long as the collective timeout. Other systems than Linux have
    no such call; there the workers end with the first collective that fails.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # A parent that ended before the call above will never be told of: look for it.
    expected = int(os.environ.get(AGENT_PID, parent))
    if os.getppid() != expected:
        os._exit(1)
