"""Whether a node's ranks have come to a halt, judged from their pages. Pure: no file, no clock.

A rank that works is held to the time since its last mark, by a limit learned from its own marks: a
factor over the 99th percentile of how long that phase takes from mark to mark, and never less than
a floor. What says little of later times has a longer limit of its own: a phase that was not passed
often enough, and the first two steps. There, processes that use no CPU time at all count as halted
too, if no other node's could be what they wait for.

A rank that waits in a collective is no culprit; only if all wait, nobody comes, and the ones that
have begun the fewest collectives are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from distrain.runs.progress_page import (
    PHASES,
    STEP_PHASES,
    WAITS_FOR_RANKS,
    WAITS_FOR_THREAD,
    Lane,
    Page,
    edge_s,
)

QUANTILE = 0.99
MIN_COUNT = 20
"""Durations of a phase from which its limit is learned."""
STEP_FACTOR = 2.25
"""Over the 99th percentile as it is counted, up to a quarter too high: less than three times it."""
LONG_FACTOR = 12.0
"""Of what is marked many times within a phase, and may take ten times as long as ever: a save on a
busy file system, a validation. The whole of such a phase takes longer than this."""
LONG_PHASES = ("save", "write", "validation")
ENDED_FLOOR_S = 60.0
"""At the end, copies of metrics may be waited for, which have limits of their own."""
OTHERS_S = 10.0
"""By which other nodes may be later than this one's limits before their ranks count as missing."""
BUSY_SHARE = 0.02
"""Of a core: what uses less stands still."""
STEP_OF_ALL = "all phases of a step"


@dataclass(frozen=True)
class Settings:
    """``launch.watchdog``, as it reaches a supervisor, which reads no recipe."""

    floor_s: float = 4.0
    first_s: float = 1800.0
    """Of what was not learned."""
    limits_s: Mapping[str, float] = field(default_factory=dict)
    """By phase, in place of what is learned."""

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """Read what ``to_text`` wrote; ``None``: nothing is judged. Empty: the defaults."""
        if not text:
            return cls()
        found = json.loads(text)
        return None if found is None else cls(**found)


@dataclass(frozen=True)
class Sight:
    """What the system says of a rank, beside its page."""

    still_s: float = 0.0
    """Since when it has used next to no CPU time."""
    unscheduled_s: float = 0.0
    """Of the time since its last mark: it wanted to run, and no core was free."""
    state: str = "S"
    """The first letter in ``/proc``: R runs, D waits for a device, T is stopped."""

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
class Limit:
    """The longest time from one mark to the next."""

    seconds: float
    is_learned: bool
    is_set: bool
    usual_s: float | None


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

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

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
            for limit in [self.limit(pages, page, lane)]
            if situation.late_s(page, lane) > limit.seconds
        ]
        if late:
            page, *_ = min(late, key=lambda found: _blame(situation, *found[:2]))
            # Of two threads of a rank the one that ran last: it may hold the interpreter's lock.
            own = (found for found in late if found[0] is page)
            _, lane, limit = max(own, key=lambda found: found[1].marked_ns)
            return _halt(situation, page, lane, limit, "no mark")
        return self._all_wait(situation) or self._all_still(situation)

    def limit(self, pages: Sequence[Page], page: Page, lane: Lane) -> Limit:
        """Return how long a rank may work without a mark where it is."""
        usual_s = usual(pages, lane.phase)
        chosen = self.settings.limits_s.get(lane.phase)
        if chosen is not None:
            return Limit(chosen, is_learned=True, is_set=True, usual_s=usual_s)
        if usual_s is None or is_first(page, lane):
            return Limit(self.settings.first_s, is_learned=False, is_set=False, usual_s=None)
        factor = LONG_FACTOR if lane.phase in LONG_PHASES else STEP_FACTOR
        limit_s = min(max(self.settings.floor_s, factor * usual_s), self.settings.first_s)
        return Limit(limit_s, is_learned=True, is_set=False, usual_s=usual_s)

    def limit_of_waits(self, pages: Sequence[Page]) -> float:
        """Return how long all ranks of this node may wait where others work on other nodes."""
        if any(is_first(page, page.main) or page.main.phase == "ended" for page in pages):
            return self.settings.first_s
        known = (usual(pages, phase) for phase in (*STEP_PHASES, *LONG_PHASES))
        longest = max([self.settings.floor_s, *(LONG_FACTOR * s for s in known if s is not None)])
        return min(2 * longest + OTHERS_S, self.settings.first_s)

    def _all_wait(self, situation: Situation) -> Halt | None:
        pages = situation.pages
        lanes = [(page, deciding_lane(page)) for page in pages]
        is_alone, floor_s = situation.is_alone, self.settings.floor_s
        limit_s = floor_s if is_alone else self.limit_of_waits(pages)
        if all(lane.waits == WAITS_FOR_RANKS for _, lane in lanes):
            if min(situation.age_s(lane) for _, lane in lanes) <= limit_s:
                return None
        else:
            # The threads that save agree among themselves, whatever the loops do meanwhile.
            saving = [(page, page.save) for page in pages if page.save is not None]
            if not saving or any(lane.waits != WAITS_FOR_RANKS for _, lane in saving):
                return None
            if min(situation.age_s(lane) for _, lane in saving) <= 2 * limit_s:
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
        limit = Limit(limit_s, is_learned=True, is_set=False, usual_s=None)
        return _halt(situation, page, lane, limit, f"every rank waits for another; {counted}")

    def _all_still(self, situation: Situation) -> Halt | None:
        """Judge what nothing was learned of: a start, a first step."""
        if not situation.is_alone:
            return None  # another node may compile, or come late
        lanes = [(page, deciding_lane(page)) for page in situation.pages]
        working = [(page, lane) for page, lane in lanes if lane.waits != WAITS_FOR_RANKS]
        for page, lane in lanes:
            sight = situation.sights.get(page.rank, Sight())
            floor_s = ENDED_FLOOR_S if lane.phase == "ended" else self.settings.floor_s
            is_still = sight.still_s > floor_s and sight.state not in ("R", "D")
            if not is_still or situation.age_s(lane) <= floor_s:
                return None
        if not working or any(self.limit(situation.pages, *found).is_learned for found in working):
            return None
        page, lane = min(working, key=lambda found: _blame(situation, *found))
        limit = Limit(self.settings.floor_s, is_learned=False, is_set=False, usual_s=None)
        return _halt(situation, page, lane, limit, "no rank uses the processor")


def usual(pages: Sequence[Page], phase: str) -> float | None:
    """Return the 99th percentile of how long a phase takes, in seconds; ``None``: not known."""
    counts = [sum(each) for each in zip(*(page.counts[phase] for page in pages), strict=True)]
    total = sum(counts)
    if total < MIN_COUNT:
        return None
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= QUANTILE * total:
            return edge_s(bucket)
    raise AssertionError("the counts add up")


def is_first(page: Page, lane: Lane) -> bool:
    """Return whether this is before the third step of an attempt, the first that counts."""
    if page.first_step is None:
        return True
    return lane.phase in STEP_PHASES and lane.step < page.first_step + 2


def lanes_at_work(page: Page) -> list[Lane]:
    """Return the lanes that wait for nobody."""
    lanes = [page.main] if page.save is None else [page.main, page.save]
    return [lane for lane in lanes if not lane.waits]


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
    return (not stopped, lane.waits != 0, place, lane.collectives, lane.marked_ns, page.rank)


def _halt(situation: Situation, page: Page, lane: Lane, limit: Limit, why: str) -> Halt:
    if situation.sights.get(page.rank, Sight()).is_stopped:
        why = f"it is stopped (state T); {why}"
    age_s = situation.age_s(lane)
    return Halt(page, lane, age_s, limit.seconds, limit.is_set, why, limit.usual_s)
