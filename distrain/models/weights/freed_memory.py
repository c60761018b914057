"""Memory that was freed goes back to the system, where the C library would keep it."""

import ctypes
import platform

LARGE_BYTES = 2**20
"""From which on a freed tensor is worth a call."""


def release_freed_memory() -> None:
    """Give back what this process has freed; under another library than glibc, do nothing.

    For the moments when much was freed that nothing will ask for again: after a model was cut.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
