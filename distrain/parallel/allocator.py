"""Let the C library return memory while a model is made, and keep what a step frees for the next.

While a model is made and cut, each large buffer is used once. By itself glibc raises, up to 32 MiB,
the size from which on a buffer is mapped alone, and then what was freed in another thread, as that
of a gloo collective, stays with it.

From the first step on the same buffers are asked for again and again. glibc gives large ones back
to the kernel, which fills each with zeros when it is asked for again: at every step the pages of
all activations. Two thresholds switch that off, for this process alone; the price is that freed
memory does not leave the process.
"""

import ctypes
import logging
import os
import platform
from typing import Literal

import torch

from distrain.models.weights.freed_memory import LARGE_BYTES

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
NEVER = 2**31 - 1
"""The largest value that fits: no buffer is so large that it is mapped by itself."""
OLDER_MAXIMUM = 32 << 20
"""Of the threshold of mapping, in versions of glibc that refuse more."""
USERS_OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")

log = logging.getLogger(__name__)


def return_large_buffers(choice: Literal["auto", "system"], device: torch.device) -> None:
    """Map every large buffer alone, as long as ``keep_freed_memory`` is not called.

    Under the same conditions as there.
    """
    if _is_ours_to_set(choice, device) and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def keep_freed_memory(choice: Literal["auto", "system"], device: torch.device) -> tuple[int, int]:
    """Set the thresholds of this process, if ``auto`` is chosen and it computes on the CPU.

    What a user has set by environment variables stays.

    Returns:
        The thresholds of mapping and of trimming that were set, in bytes; 0 where none was.
    """
    if not _is_ours_to_set(choice, device):
        return 0, 0
    library, version = platform.libc_ver()
    if library != "glibc":
        log.info("training.allocator: nothing is set, as the C library is not glibc")
        return 0, 0
    mallopt = ctypes.CDLL(None).mallopt
    mapping = next((v for v in (NEVER, OLDER_MAXIMUM) if mallopt(M_MMAP_THRESHOLD, v)), 0)
    trimming = NEVER if mallopt(M_TRIM_THRESHOLD, NEVER) else 0
    if mapping != NEVER or not trimming:
        log.info(
            "training.allocator: glibc %s took thresholds of %d bytes for mapping and %d for "
            "trimming; larger buffers go back to the system at every step",
            version,
            mapping,
            trimming,
        )
    return mapping, trimming


def _is_ours_to_set(choice: Literal["auto", "system"], device: torch.device) -> bool:
    users = any(name in os.environ for name in USERS_OWN)
    return choice == "auto" and device.type == "cpu" and not users
