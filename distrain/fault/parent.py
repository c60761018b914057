"""A process that ends with its parent, so that a killed launcher or agent leaves no orphans."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
    if os.getppid() != parent:  # it ended just before the call above: nobody will tell
        os._exit(1)
