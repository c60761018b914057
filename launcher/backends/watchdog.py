"""Whether a node's ranks have come to a halt, judged from their pages. Pure: no file, no clock.

A rank that works is held to the time since its last mark (``limits.py``). Where nothing was learned
yet, processes that use no CPU time at all count as halted too, if no other node's could be what
they wait for.

A rank that waits in a collective is no culprit; only if all wait, nobody comes, and the ones that
have begun the fewest collectives are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distrain.runs.progress_page import (
    PHASES,
    STEP_PHASES,
    WAITS_FOR_FILES,
    WAITS_FOR_RANKS,
    WAITS_FOR_THREAD,
    Lane,
    Page,
)
from launcher.backends.limits import Limit, Limits, Settings

BUSY_SHARE = 0.02
"""Of a core: what uses less stands still."""
WAITING_STATES = ("D", "I")
"""Of threads in the system: in an uninterruptible wait, as some file systems give their own."""


@dataclass(frozen=True)
class Sight:
    """What the system says of a rank, beside its page."""

    still_s: float = 0.0
    """Since when it and what it has started have used next to no CPU time."""
    unscheduled_s: float = 0.0
    """Of the time since its last mark: it wanted to run, and no core was free."""
    state: str = "S"
    """The first letter in ``/proc``: R runs, T is stopped; D and I, of any of its threads: it waits
    for a device or a file system."""

    @property
    def is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it."""
        return self.state in ("T", "t")


@dataclass(frozen=True)
class Halt:
    """A verdict: a rank, and why it counts as hung."""

    page: Page
    lane: Lane
    age_s: float
    """Since its last mark."""
    limit_s: float
    is_set: bool
    """Whether the user has set that limit."""
    why: str
    """In words."""
    usual_s: float | None
    """What the phase takes at the 99th percentile, if that is known."""


@dataclass(frozen=True)
class Situation:
    """All that is judged at one moment.

    Args:
        pages: Of this node's ranks that may be judged.
        sights: By rank.
        now_ns: Of the clock of the marks.
        since_ns: When whoever looks began to; before that, nobody counts as late.
        is_alone: Whether no other node takes part.
    """

    pages: Sequence[Page]
    sights: Mapping[int, Sight]
    now_ns: int
    since_ns: int
    is_alone: bool

    def age_s(self, lane: Lane) -> float:
        """Return how long ago a lane was marked."""
        return max(0.0, self.now_ns - max(lane.marked_ns, self.since_ns)) / 1e9

    def late_s(self, page: Page, lane: Lane) -> float:
        """As ``age_s``, but for nine tenths at most of the time for which no core was free."""
        age_s = self.age_s(lane)
        return age_s - min(self.sights.get(page.rank, Sight()).unscheduled_s, 0.9 * age_s)


class Watchdog:
    """Finds the rank that keeps the others from going on."""

    def __init__(self, settings: Settings, remembered_s: Mapping[str, float] | None = None) -> None:
        self.settings = settings
        self.limits = Limits(settings, remembered_s)

    def judge(self, situation: Situation) -> Halt | None:
        """Return whom to blame if the ranks have halted; ``None`` if they have not."""
        pages = situation.pages
        if not pages:
            return None
        late = [
            (page, lane, limit)
            for page in pages
            for lane in lanes_at_work(page)
            if situation.age_s(lane) > self.settings.floor_s
            for limit in [self._limit_of(situation, page, lane)]
            if situation.age_s(lane) > limit.seconds
        ]
        if any(situation.late_s(page, lane) > limit.seconds for page, lane, limit in late):
            # Among all that are late by the clock: on a busy machine one that is busy for ever has
            # no core for a part of the time, and those that wait for it, asleep, seem later.
            page, *_ = min(late, key=lambda found: _blame(situation, *found[:2]))
            # Of two threads of a rank the one that ran last: it may hold the interpreter's lock.
            own = (found for found in late if found[0] is page)
            _, lane, limit = max(own, key=lambda found: found[1].marked_ns)
            return halt_of(situation, page, lane, limit, "no mark")
        return self._all_wait(situation) or self._all_still(situation)

    def _limit_of(self, situation: Situation, page: Page, lane: Lane) -> Limit:
        limit = self.limits.of(situation.pages, page, lane)
        sight, floor_s = situation.sights.get(page.rank, Sight()), self.settings.floor_s
        if sight.is_stopped and sight.still_s > floor_s:
            # It does nothing, however long that would take: also in a first step, or a restore.
            # One that is only slowed down, stopped time and again, uses the processor in between.
            return replace(limit, seconds=min(limit.seconds, floor_s), is_set=False)
        return limit

    def busy_without_limit(self, situation: Situation) -> list[Page]:
        """Return the ranks that have worked for ``first_s`` without a mark, and may for ever."""
        return [
            page
            for page in situation.pages
            if page.main.waits == 0
            and situation.age_s(page.main) > self.settings.first_s
            and math.isinf(self.limits.of(situation.pages, page, page.main).seconds)
        ]

    def _all_wait(self, situation: Situation) -> Halt | None:
        pages = situation.pages
        lanes = [(page, deciding_lane(page)) for page in pages]
        if all(lane.waits == WAITS_FOR_RANKS for _, lane in lanes):
            limit = self._of_waits(situation, lanes)
            if min(situation.age_s(lane) for _, lane in lanes) <= limit.seconds:
                return None
        else:
            # The threads that save agree among themselves, whatever the loops do meanwhile.
            saving = [(page, page.save) for page in pages if page.save is not None]
            if not saving or any(lane.waits != WAITS_FOR_RANKS for _, lane in saving):
                return None
            limit = self._of_waits(situation, saving)
            if min(situation.age_s(lane) for _, lane in saving) <= 2 * limit.seconds:
                return None
            missing = [page for page in pages if page.save is None]
            lanes = [(page, page.main) for page in missing] or saving
        page, lane = min(lanes, key=lambda found: _blame(situation, *found))
        counts = sorted({lane.collectives for _, lane in lanes})
        counted = (
            f"all wait in collective {counts[0]}"
            if len(counts) == 1
            else f"it has begun {counts[0]} collectives, others {counts[-1]}"
        )
        return halt_of(situation, page, lane, limit, f"every rank waits for another; {counted}")

    def _of_waits(self, situation: Situation, found: Sequence[tuple[Page, Lane]]) -> Limit:
        lanes = [lane for _, lane in found]
        return self.limits.of_waits(situation.pages, lanes, is_alone=situation.is_alone)

    def _all_still(self, situation: Situation) -> Halt | None:
        """Judge what nothing was learned of: a start, a first step."""
        if not situation.is_alone:
            return None  # another node may compile, or come late
        lanes = [(page, deciding_lane(page)) for page in situation.pages]
        working = [(page, lane) for page, lane in lanes if lane.waits != WAITS_FOR_RANKS]
        for page, lane in lanes:
            sight = situation.sights.get(page.rank, Sight())
            floor_s = self.limits.of_stillness(lane)
            is_still = sight.still_s > floor_s and sight.state not in ("R", *WAITING_STATES)
            if not is_still or situation.age_s(lane) <= floor_s:
                return None
        if not working or any(
            self.limits.of(situation.pages, *found).is_learned for found in working
        ):
            return None
        page, lane = min(working, key=lambda found: _blame(situation, *found))
        limit_s = self.limits.of_stillness(lane)
        limit = Limit(limit_s, is_learned=False, is_set=False, usual_s=None)
        return halt_of(situation, page, lane, limit, "no rank uses the processor")


def lanes_at_work(page: Page) -> list[Lane]:
    """Return the lanes that wait for nobody but a file system."""
    lanes = [page.main] if page.save is None else [page.main, page.save]
    return [lane for lane in lanes if lane.waits in (0, WAITS_FOR_FILES)]


def deciding_lane(page: Page) -> Lane:
    """Return the lane by which a rank goes on: that of its save if its loop waits for that."""
    waits = page.main.waits == WAITS_FOR_THREAD and page.save is not None
    return page.save if waits and page.save is not None else page.main


def _blame(situation: Situation, page: Page, lane: Lane) -> tuple[Any, ...]:
    """Order ranks: first who is likelier to be the cause than to wait for it.

    In collectives of the device, which nobody counts, a rank that waits looks as one that works.
    """
    stopped = situation.sights.get(page.rank, Sight()).is_stopped
    place = (lane.step, PHASES.index(lane.phase) if lane.phase in STEP_PHASES else 0)
    waits = lane.waits not in (0, WAITS_FOR_FILES)
    return (not stopped, waits, place, lane.collectives, lane.marked_ns, page.rank)


def halt_of(situation: Situation, page: Page, lane: Lane, limit: Limit, why: str) -> Halt:
    """Put a verdict together."""
    if situation.sights.get(page.rank, Sight()).is_stopped:
        why = f"it is stopped (state T); {why}"
    age_s = situation.age_s(lane)
    return Halt(page, lane, age_s, limit.seconds, limit.is_set, why, limit.usual_s)
