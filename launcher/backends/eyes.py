"""What the system says of a rank, beside its page: whether it works, and whether it could."""

import os
from contextlib import suppress
from pathlib import Path

from distrain.runs.progress_page import Page, stat_fields
from launcher.backends.incidents import is_same_process
from launcher.backends.watchdog import BUSY_SHARE, WAITING_STATES, Sight

QUIET_S = 1.0
"""Once a rank has done nothing for so long, it is asked whether what it has started does."""
TICKS = os.sysconf("SC_CLK_TCK")


class Eye:
    """What the system says of one rank, from look to look."""

    def __init__(self) -> None:
        self._ticks = -1
        self._busy_ns = 0
        self._marked_ns = -1
        self._delay_ns = 0
        self._below: dict[int, int] = {}

    def look(self, page: Page, now_ns: int) -> Sight | None:
        """Return how the rank is; ``None`` if its process has ended."""
        if not is_same_process(page):
            return None
        try:
            fields = stat_fields(page.pid)
            delay_ns = int(Path(f"/proc/{page.pid}/schedstat").read_text().split()[1])
        except FileNotFoundError:  # a kernel without that count
            delay_ns = 0
        except (OSError, IndexError):
            return None
        ticks = sum(map(int, fields[11:15]))  # with those of its children that have ended
        allowed = 1 + BUSY_SHARE * TICKS * (now_ns - self._busy_ns) / 1e9
        if self._ticks < 0 or ticks - self._ticks > allowed:
            self._ticks, self._busy_ns, self._below = ticks, now_ns, {}
        elif (now_ns - self._busy_ns) / 1e9 > QUIET_S and self._is_busy_below(page.pid):
            self._busy_ns = now_ns
        if page.main.marked_ns != self._marked_ns:
            self._marked_ns, self._delay_ns = page.main.marked_ns, delay_ns
        still_s, state = (now_ns - self._busy_ns) / 1e9, fields[0]
        if still_s > QUIET_S and state == "S":  # not each time: a rank has hundreds of threads
            state = state_of_threads(page.pid)
        return Sight(still_s, (delay_ns - self._delay_ns) / 1e9, state)

    def _is_busy_below(self, pid: int) -> bool:
        """Whether a process below a rank, such as a compiler, has computed since the last look."""
        before, self._below = self._below, ticks_below(pid)
        # Who came meanwhile has worked; of the first look, nothing is known.
        return bool(before) and any(
            ticks - before.get(child, 0) > 1 for child, ticks in self._below.items()
        )


def state_of_threads(pid: int) -> str:
    """Return the state of a thread that waits for a device or a file system, S if none does."""
    for thread in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            state = stat_fields(f"{pid}/task/{thread.name}")[0]
            if state in WAITING_STATES:
                return state
    return "S"


def ticks_below(pid: int) -> dict[int, int]:
    """Return the CPU time of all processes below one, with that of their own that have ended."""
    found: dict[int, int] = {}
    parents = [pid]
    while parents:
        for thread in Path(f"/proc/{parents.pop()}/task").glob("*/children"):
            with suppress(OSError):  # it has ended
                for child in map(int, thread.read_text().split()):
                    found[child] = sum(map(int, stat_fields(child)[11:15]))
                    parents.append(child)
    return found
