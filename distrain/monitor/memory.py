"""How much memory this process has used at most."""

import resource
from pathlib import Path

import torch

KIB = 2**10
GIB = 2**30
_STATUS = Path("/proc/self/status")


def peak_memory_gib(device: torch.device) -> float:
    """Read the peak since the process started, in GiB.

    On a GPU what PyTorch's allocator has reserved there (fragments included, so it says how close
    an out-of-memory error is); on a CPU the resident set of the process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / GIB
    return _peak_resident_bytes() / GIB


def _peak_resident_bytes() -> int:
    # VmHWM belongs to this program; ru_maxrss is handed down through fork and exec, so a small
    # process would report the peak of the large one that started it.
    try:
        # Read in each step: one line is looked for, and not all of them taken apart.
        status = _STATUS.read_bytes()
    except OSError:
        status = b""
    _, found, rest = status.partition(b"VmHWM:")
    if found:
        return int(rest.split(maxsplit=1)[0]) * KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
