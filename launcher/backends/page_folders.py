"""Where the pages of one start lie: a folder in memory, gone with its supervisor.

One that was killed leaves its folder behind; whoever makes the next one on this machine removes it.
A lock tells: it is held for as long as the supervisor lives, in whatever container.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from launcher.backends.incidents import WatchedStage

MEMORY = Path("/dev/shm")
PREFIX = "distrain-"
OWNER = ".owner"
"""The file that is locked."""


class PageFolder:
    """A folder of pages, from now until it is removed.

    Args:
        place: What its name says.
    """

    def __init__(self, place: WatchedStage) -> None:
        root = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        remove_left_behind(root)
        while True:
            name = f"{PREFIX}{place.stage}-{place.node}-{os.getpid()}-{secrets.token_hex(4)}"
            self.path = root / name
            self.path.mkdir(mode=0o700)
            # Not handed to children: it must be free once this process is gone.
            owner = os.open(self.path / OWNER, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(owner, fcntl.LOCK_EX)
            if self.path.exists():
                self._owner = owner
                return
            os.close(owner)  # before it was locked, another one took it for left behind

    def remove(self) -> None:
        """Remove it with all that is in it; again does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1


def folders_of(supervisor: int, stage: str) -> list[Path]:
    """Return where the pages lie of the ranks that a process has started here.

    Args:
        supervisor: Its id.
        stage: Of which the ranks are.
    """
    roots = {MEMORY, Path(tempfile.gettempdir())}
    return [path for root in roots for path in root.glob(f"{PREFIX}{stage}-*-{supervisor}-*")]


def remove_left_behind(root: Path) -> None:
    """Remove the folders of this user whose supervisors are gone."""
    for owner in root.glob(f"{PREFIX}*/{OWNER}"):
        with suppress(OSError):  # another supervisor may be removing it, too
            _remove_if_free(owner)


def _remove_if_free(owner: Path) -> None:
    if owner.stat().st_uid != os.getuid():
        return
    descriptor = os.open(owner, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(owner.parent, ignore_errors=True)
    finally:
        os.close(descriptor)
