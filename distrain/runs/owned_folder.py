"""A temporary folder that goes with its process; what one left that was killed, the next removes.

A lock tells: it is held for as long as the process lives, in whatever container.
"""

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

OWNER = ".owner"
"""The file that is locked."""


class OwnedFolder:
    """A folder of this process, from now until it is removed.

    Args:
        root: Where it is made. Folders there whose name begins with ``prefix``, whose process is
            gone and that are this user's are removed.
        prefix: Of its name.
        middle: What else its name says.

    Raises:
        OSError: It cannot be made there.
    """

    def __init__(self, root: Path, prefix: str, middle: str = "") -> None:
        remove_left_behind(root, prefix)
        while True:
            self.path = root / f"{prefix}{middle}{secrets.token_hex(4)}"
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


def remove_left_behind(root: Path, prefix: str) -> None:
    """Remove the folders of this user whose processes are gone."""
    for owner in root.glob(f"{prefix}*/{OWNER}"):
        with suppress(OSError):  # another process may be removing it, too
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
