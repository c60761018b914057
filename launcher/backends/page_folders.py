"""Where the pages of one start lie: a folder in memory, gone with its supervisor."""

import os
import tempfile
from pathlib import Path

from distrain.runs.owned_folder import OwnedFolder
from launcher.backends.incidents import WatchedStage

MEMORY = Path("/dev/shm")
PREFIX = "distrain-"


class PageFolder(OwnedFolder):
    """A folder of pages, from now until it is removed.

    Args:
        place: What its name says.
    """

    def __init__(self, place: WatchedStage) -> None:
        root = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        super().__init__(root, PREFIX, f"{place.stage}-{place.node}-{os.getpid()}-")


def folders_of(supervisor: int, stage: str) -> list[Path]:
    """Return where the pages lie of the ranks that a process has started here.

    Args:
        supervisor: Its id.
        stage: Of which the ranks are.
    """
    roots = {MEMORY, Path(tempfile.gettempdir())}
    return [path for root in roots for path in root.glob(f"{PREFIX}{stage}-*-{supervisor}-*")]
