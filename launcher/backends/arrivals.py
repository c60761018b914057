"""Ranks that were started and cannot be judged: they have no page, or have not come further."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distrain.runs.progress_page import PAGES, Page, read_pages
from launcher.backends.limits import Limit, Limits
from launcher.backends.watchdog import Halt, Situation, halt_of


@dataclass
class Arrivals:
    """Notes when each rank of this node was first seen.

    Those of one node are started together. Once the first are there, the last one has as long as
    they took and much more; where none comes, ``first`` is the limit. A limit that the user has set
    for ``import`` takes the place of both.

    Args:
        folder: Of the pages.
        begun_ns: When they were started, by the clock of the marks.
    """

    folder: Path
    begun_ns: int
    _seen_ns: dict[int, int] = field(default_factory=dict)

    def judge(
        self, pages: Sequence[Page], now_ns: int, since_ns: int, limits: Limits
    ) -> tuple[Halt, Situation] | None:
        """Return which rank is missing for too long.

        Args:
            pages: Of the ranks of this node that may be judged, where some are missing.
            now_ns: Now.
            since_ns: As of ``Situation``.
            limits: Of this attempt.
        """
        for page in pages:
            self._seen_ns.setdefault(page.rank, now_ns)
        last_ns = max(self._seen_ns.values(), default=self.begun_ns)
        took_s = (last_ns - self.begun_ns) / 1e9
        limit_s = limits.of_what_was_seen(took_s) if pages else limits.settings.first_s
        chosen_s = limits.settings.limits_s.get("import")
        if chosen_s is not None:
            limit_s = chosen_s
        if (now_ns - max(last_ns, since_ns)) / 1e9 <= limit_s:
            return None
        missing = self._missing(pages, last_ns)
        if (now_ns - missing.main.marked_ns) / 1e9 <= limit_s:
            return None  # it imports
        shown = [*(page for page in pages if page.rank != missing.rank), missing]
        situation = Situation(shown, {}, now_ns, since_ns, is_alone=False)
        limit = Limit(limit_s, is_learned=False, is_set=chosen_s is not None, usual_s=None)
        others = f"; {len(pages)} of {pages[0].local_ranks} ranks have" if pages else ""
        why = f"it has not begun its work{others}"
        return halt_of(situation, missing, missing.main, limit, why), situation

    def _missing(self, pages: Sequence[Page], last_ns: int) -> Page:
        opened = [page for page in read_pages(self.folder) if not page.judged]
        if opened:
            return min(opened, key=lambda page: page.main.marked_ns)
        there = {page.rank for page in pages}
        started = {rank: pid for rank, pid in find_ranks(self.folder).items() if rank not in there}
        if started:
            rank = min(started)
        elif there:
            # The ranks of a node have consecutive numbers.
            local = pages[0].local_ranks
            first = min(there) // local * local
            rank = next(each for each in range(first, first + local) if each not in there)
        else:
            rank = -1
        pid, host = started.get(rank, 0), socket.gethostname()
        return Page.missing(rank, pid, host, last_ns)


def find_ranks(folder: Path) -> dict[int, int]:
    """Return the processes that were told to keep their pages in ``folder``, by rank.

    By the environment with which a program began: those of a fork server's ranks are not seen.
    """
    told = f"{PAGES}={folder}".encode()
    found: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is another user's
            continue
        rank = next((word for word in words if word.startswith(b"RANK=")), None)
        if rank is not None and told in words and os.fsdecode(rank[5:]).isdigit():
            pid = int(process.name)
            # Workers of a rank have the same environment; the rank itself began before them.
            found[int(rank[5:])] = min(pid, found.get(int(rank[5:]), pid))
    return found
