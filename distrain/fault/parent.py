"""A rank or a worker that ends with its parent."""

import os

from distrain.runs.parent import dying_with

AGENT_PID = "DISTRAIN_AGENT_PID"
"""Environment variable: process id of the torchrun that started this rank."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends.

    torchrun starts its workers from its main thread, and a killed torchrun leaves them running,
    waiting for each other for as long as the collective timeout. Where the system has no such
    call, they end with the first collective that fails.
    """
    # torchrun's own word, where there is one: it may have ended before this process could ask.
    dying_with(int(os.environ.get(AGENT_PID, os.getppid())))()
