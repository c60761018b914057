"""What the other nodes add to an incident: where their ranks were when one node's came to a halt.

Whoever finds a halt makes the incident's folder first. The others look for such a folder about once
a second, and leave the stacks of their ranks in it, while those still wait; then the finder acts.
"""

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from distrain.runs.durable import write_file
from distrain.runs.incidents import numbers_of
from distrain.runs.progress_page import Page
from distrain.runs.records import read_json, write_json
from launcher.backends.incidents import WatchedStage, collect_stacks, seen_of, witness_file
from launcher.backends.watchdog import Situation

LOOK_S = 1.0
"""Between two looks into the run's folder, which may be on a slow file system."""


class Witness:
    """One node's side while it is not the one that has found a halt.

    Args:
        place: Of the stage.
        pages: Their folder.
    """

    def __init__(self, place: WatchedStage, pages: Path) -> None:
        self._place = place
        self._pages = pages
        self._known = set(numbers_of(place.folder)) if place.nodes > 1 else set()
        self._looked_s = 0.0

    def look(self, pages: Sequence[Page], situation: Situation) -> None:
        """Add to incidents that have come since the start, once to each."""
        if self._place.nodes == 1 or time.monotonic() - self._looked_s < LOOK_S:
            return
        self._looked_s = time.monotonic()
        with suppress(OSError):  # the file system may be what hangs: then there is less to see
            for number in numbers_of(self._place.folder):
                if number not in self._known:
                    self._known.add(number)
                    self._add(number, pages, situation)

    def _add(self, number: int, pages: Sequence[Page], situation: Situation) -> None:
        stacks = collect_stacks(pages, self._pages)
        folder = self._place.folder.incident(number).parent
        for path in sorted(self._pages.glob("[0-9]*")):
            write_file(folder / path.name, path.read_bytes())
        record = {
            "node": self._place.node,
            "host": socket.gethostname(),
            "ranks": [seen_of(page, situation, stacks.get(page.rank, [])) for page in pages],
        }
        # Last: it says that the others are there.
        write_json(witness_file(self._place, number, self._place.node), record)


def read_witnesses(place: WatchedStage, number: int, patience_s: float) -> list[dict[str, Any]]:
    """Wait for what all other nodes have to say of an incident, and return what came."""
    files = [witness_file(place, number, node) for node in range(place.nodes) if node != place.node]
    deadline = time.monotonic() + patience_s
    while not all(file.exists() for file in files) and time.monotonic() < deadline:
        time.sleep(0.1)
    found = (read_json(file) for file in files)
    return [record for record in found if record is not None]
