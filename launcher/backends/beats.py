"""Signs of life of supervisors on other nodes: a file each, whose time changes every few seconds.

No clocks are compared: a reader only asks whether the time of a file has changed since it last
looked. It opens the file to ask, as a shared file system may answer a mere ``stat`` from a cache
for as long as a minute. A change of the time needs no room, so that a full disk looks like life.
"""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

BEAT_S = 5.0
"""Between two signs of life."""
SILENCE_S = 60.0
"""Without a sign for so long a node counts as gone: as long as NFS may keep what it knows of a
file, and long enough for a server that is started again."""
QUIET_S = 2.4 * BEAT_S
"""The same for a node with a ``SteadyPulse`` whose attempt has failed, and which does not say so:
two signs are missing, and a third is due."""
LOOK_S = 1.0
"""Between two looks at a file."""


class Pulse:
    """The signs of life of this process, given wherever it looks around: a hung one does not."""

    def __init__(self, path: Path, every_s: float | None = None) -> None:
        self._path = path
        self._every_s = every_s
        self._due = 0.0

    def beat(self) -> None:
        """Give a sign, if one is due."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + (self._every_s or BEAT_S)
        self._touch()

    def end(self) -> None:
        """Give no further sign."""
        self._due = float("inf")

    def _touch(self) -> None:
        with suppress(OSError):  # of which others will tell
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()


class SteadyPulse(Pulse):
    """Signs of life from a thread: a process that is busy between two looks does not miss one.

    So silence of two beats tells that a process is gone, not that it is slow. They end, too, when
    it has not looked around for ``SILENCE_S``: then it hangs.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._looked = time.monotonic()
        self._is_over = threading.Event()
        self._touch()
        threading.Thread(target=self._go_on, name="pulse", daemon=True).start()

    def beat(self) -> None:
        """Take note that this process looks around."""
        self._looked = time.monotonic()

    def end(self) -> None:
        """Give no further sign."""
        self._is_over.set()

    def _go_on(self) -> None:
        before = time.monotonic()
        while not self._is_over.wait(BEAT_S):
            now = time.monotonic()
            # While the whole process was suspended, it could not have looked around.
            self._looked = min(self._looked + max(now - before - 2 * BEAT_S, 0.0), now)
            before = now
            if time.monotonic() - self._looked < SILENCE_S:
                self._touch()


class Watch:
    """How long another node has been silent.

    Args:
        path: File of its signs.
        most_s: How much of the time between two looks counts at most, by default two beats: while
            this process itself hangs, as on a server that is away, nobody is silent. Where
            ``QUIET_S`` decides, it must be much less than that.
    """

    def __init__(self, path: Path, most_s: float | None = None) -> None:
        self.path = path
        self._most_s = 2 * BEAT_S if most_s is None else most_s
        self._seen = _time_of(path)
        self._looked = time.monotonic()
        self.silent_s = 0.0
        """Since its last sign, or since this one began to watch."""
        self.is_heard = False
        """Whether a sign came since then: a file may be of an earlier run."""

    def look(self) -> float:
        """Return ``silent_s`` as it is now."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self.silent_s += min(now - self._looked, self._most_s)
            self._looked = now
            found = _time_of(self.path)
            if found != self._seen:
                self._seen, self.silent_s, self.is_heard = found, 0.0, True
        return self.silent_s


def _time_of(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)
