"""Faults from outside: ranks of this machine are found by their progress pages, and struck.

Nothing of it needs more rights than a user has over processes of its own.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distrain.runs.folder import StageFolder
from distrain.runs.progress_page import Page, read_pages, started_ticks, stat_fields
from launcher.backends.incidents import is_same_process
from launcher.backends.page_folders import folders_of
from launcher.proving.scratch import checkpoints_of

BURST_S = 0.15
"""Of a slow rank: how long it is stopped, and then let go on; far below any limit of a hang."""
PAGE_BYTES = 4096
NOT_GONE_S = 10.0
NOT_STOPPED_S = 2.0


def ranks_of(supervisor: int, stage: str) -> list[Page]:
    """Return the pages of the ranks that live now, in their order.

    Args:
        supervisor: Process id of who started them on this node, such as a launcher.
        stage: Of the run.
    """
    folders = folders_of(supervisor, stage)
    pages = [page for folder in folders for page in read_pages(folder) if is_same_process(page)]
    return sorted(pages, key=lambda page: page.rank)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started and that have not ended: a server, an agent."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, thread.read_text().split())
    return found


def strike(page: Page, number: signal.Signals = signal.SIGKILL) -> bool:
    """Send a signal to a rank; tell whether it was still there to take it."""
    return signal_process(page.pid, page.started, number)


def signal_process(pid: int, started: int, number: signal.Signals) -> bool:
    """Send a signal to the one process that began then; its id may be another's by now."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # The descriptor holds on to one process: looked at after it was opened, it is the one.
        if started_ticks(pid) != started:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def slow_down(page: Page, seconds: float) -> None:
    """Let a rank run half of the time only, for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and strike(page, signal.SIGSTOP):
        time.sleep(BURST_S)
        if not strike(page, signal.SIGCONT):
            return
        time.sleep(BURST_S)


@contextmanager
def all_stopped(pages: list[Page]) -> Iterator[bool]:
    """Stop ranks for a moment, so that none goes on meanwhile; gives whether all were there."""
    stopped = [page for page in pages if strike(page, signal.SIGSTOP)]
    try:
        # The signal is sent; the process stops when it is next in the kernel.
        yield bool(pages) and len(stopped) == len(pages) and all(map(_stops, stopped))
    finally:
        for page in stopped:
            strike(page, signal.SIGCONT)


def _stops(page: Page) -> bool:
    until = time.monotonic() + NOT_STOPPED_S
    while time.monotonic() < until and is_same_process(page):
        if stat_fields(page.pid)[0] in "Tt":
            return True
        time.sleep(0.001)
    return False


def flip_byte(content: bytearray, dice: random.Random) -> str:
    """Change one byte; returns which."""
    where = dice.randrange(len(content))
    content[where] ^= dice.randrange(1, 256)
    return f"byte {where} changed"


def zero_page(content: bytearray, dice: random.Random) -> str:
    """Leave zeros in the place of a page, as a power loss may."""
    begin = dice.randrange(len(content))
    page = content[begin : begin + PAGE_BYTES]
    content[begin : begin + PAGE_BYTES] = bytes(len(page))
    if not any(page):  # there were zeros before
        return flip_byte(content, dice)
    return f"{len(page)} bytes from {begin} zeroed"


def cut_short(content: bytearray, dice: random.Random) -> str:
    """Drop the end."""
    del content[dice.randrange(len(content)) :]
    return f"cut to {len(content)} bytes"


DAMAGES = (flip_byte, zero_page, cut_short)


def damage_newest(folder: StageFolder, dice: random.Random) -> str:
    """Damage a file of a stage's newest checkpoint; returns what was done, in words.

    Raises:
        FileNotFoundError: There is no checkpoint, or it was retired just now.
    """
    checkpoints = checkpoints_of(folder)
    if not checkpoints:
        raise FileNotFoundError(f"{folder.checkpoints}: no checkpoint yet")
    _, newest = checkpoints[-1]
    files = sorted(path for path in newest.iterdir() if path.is_file() and path.stat().st_size)
    path = dice.choice(files)
    content = bytearray(path.read_bytes())
    done = dice.choice(DAMAGES)(content, dice)
    # A new file: in a scratch folder the old one may be a hard link to somebody's checkpoint.
    path.unlink()
    path.write_bytes(content)
    return f"{newest.name}/{path.name}: {done}"


def wait_until_gone(pages: list[Page], timeout_s: float = NOT_GONE_S) -> list[Page]:
    """Wait for ranks to end; returns those that still live after ``timeout_s``."""
    until = time.monotonic() + timeout_s
    left = pages
    while left and time.monotonic() < until:
        left = [page for page in left if is_same_process(page)]
        time.sleep(0.02)
    return left
