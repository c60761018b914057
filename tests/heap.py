"""What the C library and the system say of this process's memory."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread


class HeapFigures(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def in_memory() -> tuple[int, int]:
    """Return bytes of this process: alive for the C library; and pages that are its own."""
    glibc = ctypes.CDLL(None)
    glibc.mallinfo2.restype = HeapFigures
    heap = glibc.mallinfo2()
    lines = Path("/proc/self/status").read_text().splitlines()
    pages = int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024
    return heap.uordblks + heap.hblkhd, pages


def peak_during(work: Callable[[], None]) -> tuple[int, int]:
    """Return the most of both figures of ``in_memory`` while something runs in this thread."""
    seen, done = [in_memory()], Event()

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(in_memory())

    watcher = Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    alive, pages = zip(*seen, strict=True)
    return max(alive), max(pages)
