"""Processes whose ranks are watched: one that has come to a halt is ended as if it had crashed."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from distrain.runs.incidents import read_incidents
from distrain.runs.progress_page import (
    PAGES,
    WAITS_FOR_RANKS,
    WATCHDOG,
    Page,
    read_pages,
)
from distrain.runs.records import append_event, read_state
from distrain.runs.strikes import this_node
from launcher.backends.arrivals import Arrivals
from launcher.backends.blame import FailureKind, FirstFailure, NodeFailure
from launcher.backends.eyes import Eye
from launcher.backends.incidents import (
    WatchedStage,
    collect_stacks,
    describe_halt,
    is_same_process,
    put_down,
    recorder_environment,
)
from launcher.backends.limits import Settings
from launcher.backends.page_folders import PageFolder
from launcher.backends.remembered import read_remembered, remember
from launcher.backends.stacks import line_of_loop
from launcher.backends.watchdog import Halt, Situation, Watchdog
from launcher.backends.witnesses import Witness

NAP_S = 0.25
"""Between two looks at the pages."""
STARVED_S = 1.0
"""A look that comes later by this finds a watchdog that was suspended or starved itself: what the
ranks did meanwhile it does not know, and so it begins anew."""
MOST_DOUBLINGS = 6


class Started(Protocol):
    """What is watched: one process of this node and all below it, or several."""

    @property
    def is_unkillable(self) -> bool:
        """Whether one of them does not end: this node cannot go on."""
        ...

    @property
    def end(self) -> str:
        """How they ended, in words."""
        ...

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; ``None`` while they run."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until they end or ``timeout_s`` passes; tell whether they ended."""
        ...

    def kill(self) -> None:
        """End them at once."""
        ...

    def close(self) -> None:
        """Leave none behind."""
        ...


class Watched:
    """Processes of this node, and a watchdog that looks while they are waited for.

    It is a part of the supervisor, outside of the ranks and their interpreter locks.

    Args:
        start: Starts them in an environment.
        env: To which the folder of pages is added; it also says what the user wants of a watchdog.
        place: Of the stage.
    """

    is_lost = False

    def __init__(
        self,
        start: Callable[[Mapping[str, str]], Started],
        env: Mapping[str, str],
        place: WatchedStage,
    ) -> None:
        self._place = place
        settings = Settings.from_text(env.get(WATCHDOG, ""))
        self._remembered = read_remembered(place.folder)
        self._watchdog = None if settings is None else Watchdog(settings, self._remembered)
        self._page_folder = PageFolder(place)
        self._pages = self._page_folder.path
        self.halted = ""
        """Who has come to a halt, in words."""
        self._first = FirstFailure()
        self._is_killed = False
        self._suspect: tuple[int, int] | None = None
        self._eyes: dict[int, Eye] = {}
        self._before = read_incidents(place.folder)
        self._witness = Witness(place, self._pages)
        self._told: set[str] = set()
        self._looked_ns = self._since_ns = time.monotonic_ns()
        self._arrivals = Arrivals(self._pages, self._since_ns)
        more = {PAGES: str(self._pages)} | {
            name: value
            for name, value in recorder_environment(self._pages).items()
            if name not in env
        }
        try:
            self._child = start({**env, **more})
        except BaseException:
            self._page_folder.remove()
            raise

    @property
    def is_unkillable(self) -> bool:
        """Whether one of them does not end: this node cannot go on."""
        return self._child.is_unkillable

    @property
    def end(self) -> str:
        """How they ended: who hung, if one did."""
        return self.halted or self._child.end

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; ``None`` while they run."""
        return self._child.code

    @property
    def failure(self) -> NodeFailure | None:
        """What failed first on this node; ``None``: nothing, or it was ended for another's sake."""
        if self._first.found is not None or self.code == 0 or self._is_killed:
            return self._first.found
        return NodeFailure(this_node(), "ended", how=self.end)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until they end or ``timeout_s`` passes; look at the pages meanwhile."""
        until = time.monotonic() + timeout_s
        while True:
            has_ended = self._child.wait(min(max(until - time.monotonic(), 0.0), NAP_S))
            self._see_ends()
            if has_ended:
                return True
            if self._watchdog is not None and not self.halted:
                self._look(self._watchdog)
            if time.monotonic() >= until:
                return False

    def kill(self) -> None:
        """End them at once."""
        self._is_killed = self._is_killed or self._child.code is None
        self._see_ends()
        self._first.end()
        self._child.kill()
        # Whatever started them: a rank may have lost its parent.
        for page in read_pages(self._pages):
            if is_same_process(page):
                with suppress(ProcessLookupError):
                    os.kill(page.pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave no process behind, nor their pages."""
        try:
            self.kill()
            self._child.close()
            if self._place.node == 0:
                remember(self._place.folder, self._remembered, read_pages(self._pages))
        finally:
            self._page_folder.remove()

    def _see_ends(self) -> None:
        pages = read_pages(self._pages)
        self._first.look(pages, [page.rank for page in pages if not is_same_process(page)])

    def _look(self, watchdog: Watchdog) -> None:
        now_ns = time.monotonic_ns()
        passed_s = (now_ns - self._looked_ns) / 1e9
        if passed_s < NAP_S / 2:
            return
        self._looked_ns = now_ns
        if passed_s > NAP_S + STARVED_S:
            self._since_ns, self._suspect, self._eyes = now_ns, None, {}
        pages = [page for page in read_pages(self._pages) if page.judged]
        if not pages or len(pages) < pages[0].local_ranks:
            late = self._arrivals.judge(pages, now_ns, self._since_ns, watchdog.limits)
            if late is not None and not self._is_known_to_be_slow(late[0], watchdog.settings):
                self._act(*late)
            return
        situation = self._situation(pages, now_ns)
        if situation is None:
            return
        self._witness.look(situation)
        self._tell_too_short(watchdog, pages)
        self._tell_busy(watchdog, situation)
        halt = watchdog.judge(situation)
        if halt is None:
            self._suspect = None
            return
        # Twice: a mark may have come between two reads.
        suspect = (halt.page.rank, halt.lane.marked_ns)
        if suspect == self._suspect and not self._is_known_to_be_slow(halt, watchdog.settings):
            self._act(halt, situation)
        self._suspect = suspect

    def _situation(self, pages: Sequence[Page], now_ns: int) -> Situation | None:
        """Return what there is to judge; ``None`` once a rank has ended: that is seen anyway."""
        sights = {}
        for page in pages:
            sight = self._eyes.setdefault(page.pid, Eye()).look(page, now_ns)
            if sight is None:
                return None
            sights[page.rank] = sight
        return Situation(pages, sights, now_ns, self._since_ns, self._place.nodes == 1)

    def _tell_too_short(self, watchdog: Watchdog, pages: Sequence[Page]) -> None:
        """Say once that a limit of the user's is below what it limits."""
        for found in watchdog.limits.too_short(pages):
            if found.phase in self._told:
                continue
            self._told.add(found.phase)
            self._append_event(
                "watchdog_limit",
                phase=found.phase,
                limit_s=found.limit_s,
                usual_s=round(found.usual_s, 3),
                reason=str(found),
            )

    def _tell_busy(self, watchdog: Watchdog, situation: Situation) -> None:
        """Say once of each call that works on and on where no limit holds, and where it is."""
        for page in watchdog.busy_without_limit(situation):
            if f"{page.main.marked_ns}" in self._told:
                continue
            self._told.add(f"{page.main.marked_ns}")
            stacks = collect_stacks([page], self._pages)[page.rank]
            line = line_of_loop(stacks, page.main.phase)
            age_s, phase = situation.age_s(page.main), page.main.phase
            self._append_event(
                "no_mark",
                phase=phase,
                age_s=round(age_s, 3),
                line=line,
                reason=f"{phase}: busy for {age_s:.0f} s without a mark{line and ', in ' + line}; "
                "a call of a library may take that long. If this one is stuck, end it, and set "
                f"launch.watchdog.limits.{phase}.",
            )

    def _append_event(self, kind: str, **fields: object) -> None:
        """Write an event of the stage, if its file system lets it."""
        state = read_state(self._place.folder)
        with suppress(OSError):
            append_event(
                self._place.run.events,
                kind,
                self._place.stage,
                attempt=state["attempt"] if state else 0,
                **fields,
            )

    def _is_known_to_be_slow(self, halt: Halt, settings: Settings) -> bool:
        """Give twice the time to what halted in the same place in the attempt before.

        A limit that is too short for something that takes long once must not end the stage,
        whoever has set it.
        """
        if halt.limit_s >= settings.first_s and not halt.is_set:
            return False  # that long is long enough for anything
        place, times = (halt.lane.phase, halt.lane.step), 0
        for incident in reversed(self._before):
            if (incident["phase"], incident["step"]) != place:
                break
            times += 1
        return bool(halt.age_s < halt.limit_s * 2 ** min(times, MOST_DOUBLINGS))

    def _act(self, halt: Halt, situation: Situation) -> None:
        self.halted = describe_halt(halt)
        # One that waits does so for another node, unless there is none.
        waits = halt.lane.waits == WAITS_FOR_RANKS and self._place.nodes > 1
        kind: FailureKind = "met" if waits else "hung"
        self._first.halt(NodeFailure(this_node(), kind, halt.page.rank, self.halted))
        if self._place.nodes == 1:
            put_down(self._place, halt, situation, self._pages)
        else:
            self.halted = self._witness.put_down(halt, situation)
        self.kill()
