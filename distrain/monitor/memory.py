"""How much memory this process has used at most, and how much it may still take."""

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


def available_bytes() -> int | None:
    """Return the memory that a process may still take, by the machine and by its job's own limit.

    ``None`` where unknown.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        (line,) = [line for line in lines if line.startswith("MemAvailable:")]
        found = int(line.split()[1]) * KIB
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return min([found, *room_in_groups(groups, Path("/sys/fs/cgroup"))])


def room_in_groups(groups: str, root: Path) -> list[int]:
    """Return the bytes that each control group around the process has left (cgroup v2).

    Files in the page cache count as free, as the kernel drops them first.

    Args:
        groups: Content of ``/proc/self/cgroup``.
        root: Where the groups are mounted.
    """
    own = next((line[4:] for line in groups.splitlines() if line.startswith("0::/")), None)
    if own is None:
        return []
    folder = root / own
    rooms = []
    for place in (folder, *folder.parents[: len(Path(own).parts)]):
        try:
            limit = int((place / "memory.max").read_text())  # "max": there is none
            lines = (place / "memory.stat").read_text().splitlines()
            held = sum(int(line.split()[1]) for line in lines if line.startswith("anon "))
        except (OSError, ValueError):
            continue
        rooms.append(max(0, limit - held))
    return rooms
