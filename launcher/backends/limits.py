"""How long a rank may work without a mark, by phase: learned, set, or of what was not learned.

A limit that is learned is a factor over the 99th percentile of how long that phase takes from mark
to mark, and never less than a floor. It holds from the third step on, once the phase was passed
often enough. Before that, what the same work took in other ranks, in an earlier step or in an
earlier attempt bounds it, with much room; where nothing is known at all, ``first`` does.

A limit of the user's holds as soon as the phase was passed once, and only if it is longer than
that takes: one below a step would end every attempt.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from distrain.runs.progress_page import (
    STEP_PHASES,
    WAITS_FOR_FILES,
    WORK_PHASES,
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
busy file system, a validation. The whole of such a phase takes longer than this. Also over what was
seen only once."""
LONG_PHASES = ("save", "write", "validation")
SEEN_FLOOR_S = 60.0
"""Of what was seen only once: a cold cache, a compilation that others had behind them."""
FILES_S = 600.0
"""Of calls of a file system within a save: an fsync of all that caches hold, a removal. What they
took before says nothing; ``checkpoint.save_deadline`` bounds the whole."""
SAVE_PHASES = ("save", "write")
BEFORE_STEPS = ("import", "rendezvous")
"""What takes as long in the next attempt, whatever the checkpoint is that it goes on from."""
MEASURED = (*STEP_PHASES, *LONG_PHASES)
"""Phases whose durations are counted."""
WORK_STILL_S = 120.0
"""Of stages that do not train: longer than a request to a store may hang."""
OTHERS_S = 10.0
"""By which other nodes may be later than this one's limits before their ranks count as missing."""
COARSE = 1.25
"""By which what is counted may be above what it was, see ``edge_s``."""


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
class Limit:
    """The longest time from one mark to the next."""

    seconds: float
    is_learned: bool
    is_set: bool
    usual_s: float | None


@dataclass(frozen=True)
class TooShort:
    """A limit of the user's that is below what the phase takes."""

    phase: str
    limit_s: float
    usual_s: float
    """At the 99th percentile, at least."""
    holds_s: float
    """What holds in its place."""

    def __str__(self) -> str:
        setting = f"launch.watchdog.limits.{self.phase}"
        return (
            f"{setting}: found {self.limit_s:g} s; expected more than this phase takes from mark "
            f"to mark, {self.usual_s:.3g} s at the 99th percentile. It is not obeyed, or every "
            f"attempt would be ended; {self.holds_s:.3g} s holds, as learned. Set {setting} to "
            f"{STEP_FACTOR * COARSE * self.usual_s:.2g} s or more, or leave it out."
        )


class Limits:
    """All limits of one attempt.

    Args:
        settings: Of the user.
        remembered_s: The longest time between two marks in earlier attempts, by phase.
    """

    def __init__(self, settings: Settings, remembered_s: Mapping[str, float] | None = None) -> None:
        self.settings = settings
        self._remembered_s = remembered_s or {}

    def of(self, pages: Sequence[Page], page: Page, lane: Lane) -> Limit:
        """Return how long a rank may work without a mark where it is."""
        usual_s = usual(pages, lane.phase)
        chosen = self.settings.limits_s.get(lane.phase)
        if lane.waits == WAITS_FOR_FILES and chosen is None:
            return Limit(max(FILES_S, self.settings.floor_s), True, is_set=False, usual_s=None)
        if lane.phase in WORK_PHASES and chosen is None:
            return Limit(self._of_work_s(lane.phase, usual_s), False, is_set=False, usual_s=usual_s)
        if chosen is not None and self._is_obeyed(chosen, pages, page, lane):
            return Limit(chosen, is_learned=True, is_set=True, usual_s=usual_s)
        if usual_s is None or is_first(page, lane):
            return Limit(self._first_s(pages, page, lane), False, is_set=False, usual_s=None)
        if lane.phase == "validation":
            # Of a few batches among many drawn tokens the percentile knows nothing.
            usual_s = max(usual_s, *(other.longest_s["validation"] for other in pages))
        return Limit(self._learned_s(lane.phase, usual_s), True, is_set=False, usual_s=usual_s)

    def of_waits(self, pages: Sequence[Page], lanes: Sequence[Lane], *, is_alone: bool) -> Limit:
        """Return how long all ranks of this node may wait.

        Args:
            pages: Of the ranks.
            lanes: By which they go on.
            is_alone: Whether no other node takes part, whose ranks may work.
        """
        seconds, is_set = self.settings.floor_s, False
        if not is_alone:
            seconds = self._of_waits_for_nodes_s(pages, lanes)
        if any(page.first_step is None for page in pages):
            # They meet: names of hosts are looked up, networks and devices begin.
            chosen = [self.settings.limits_s.get(lane.phase) for lane in lanes]
            is_set = None not in chosen
            seconds = max(s or max(SEEN_FLOOR_S, seconds) for s in chosen)
        return Limit(seconds, is_learned=True, is_set=is_set, usual_s=None)

    def _of_waits_for_nodes_s(self, pages: Sequence[Page], lanes: Sequence[Lane]) -> float:
        unknown = ("ended", *WORK_PHASES)  # what another node's rank does there was never seen
        if any(is_first(page, page.main) or page.main.phase in unknown for page in pages):
            return self.settings.first_s
        known = (usual(pages, phase) for phase in MEASURED)
        longest = max([self.settings.floor_s, *(LONG_FACTOR * s for s in known if s is not None)])
        bound = min(2 * longest + OTHERS_S, self.settings.first_s)
        if any(lane.phase in SAVE_PHASES for lane in lanes):
            return max(bound, FILES_S + OTHERS_S)  # another node's rank may be in a file system
        return bound

    def of_stillness(self, lane: Lane) -> float:
        """Return how long a rank may use no processor where nothing was learned, in seconds.

        As a rank does that waits for a file system, whatever the state that the system gives it.
        """
        least_s = WORK_STILL_S if lane.phase in WORK_PHASES else SEEN_FLOOR_S
        chosen_s = self.settings.limits_s.get(lane.phase, 0.0)
        return max(least_s, self.settings.floor_s, chosen_s)

    def of_what_was_seen(self, seen_s: float) -> float:
        """Return how long what was seen once may take another time, or in another rank."""
        floor_s = max(SEEN_FLOOR_S, self.settings.floor_s)
        return min(max(floor_s, LONG_FACTOR * seen_s), self.settings.first_s)

    def too_short(self, pages: Sequence[Page]) -> Iterator[TooShort]:
        """Yield the user's limits that are not obeyed: what the ranks do takes longer."""
        for phase, chosen in self.settings.limits_s.items():
            least_s = usual_at_least(pages, phase)
            if least_s is not None and chosen <= least_s:
                usual_s = usual(pages, phase)
                holds_s = (
                    self.settings.first_s if usual_s is None else self._learned_s(phase, usual_s)
                )
                yield TooShort(phase, chosen, least_s, holds_s)

    def _is_obeyed(self, chosen: float, pages: Sequence[Page], page: Page, lane: Lane) -> bool:
        if lane.phase not in MEASURED:
            return True
        least_s = usual_at_least(pages, lane.phase)
        return least_s is not None and chosen > least_s and not is_first(page, lane)

    def _of_work_s(self, phase: str, usual_s: float | None) -> float:
        """Return how long a stage without steps may work and mark nothing.

        Not less than ``first``: unlike steps, what it does there may take any time. ``prepare``
        itself trains a tokenizer, say, in one call of a library.
        """
        if phase == "prepare":
            return math.inf
        return max(self.settings.first_s, LONG_FACTOR * (usual_s or 0.0))

    def _learned_s(self, phase: str, usual_s: float) -> float:
        factor = LONG_FACTOR if phase in LONG_PHASES else STEP_FACTOR
        return min(max(self.settings.floor_s, factor * usual_s), self.settings.first_s)

    def _first_s(self, pages: Sequence[Page], page: Page, lane: Lane) -> float:
        seen = list(self._seen_s(pages, page, lane))
        return self.of_what_was_seen(max(seen)) if seen else self.settings.first_s

    def _seen_s(self, pages: Sequence[Page], page: Page, lane: Lane) -> Iterator[float]:
        """Yield what the same work took elsewhere, or before.

        Not of a restore or a save: the first rank works there for all, and the next time it may
        be another work. Not of the first pass itself, whose end nobody has seen.
        """
        if lane.phase in STEP_PHASES:
            for other in pages:
                # A rank that is a collective further has this work behind it.
                is_further = other.main.collectives > lane.collectives
                longest_s = other.longest_s[lane.phase]
                if longest_s > 0 and (is_further or other.has_made_a_step):
                    yield longest_s
        if lane.phase in (*STEP_PHASES, *BEFORE_STEPS) and lane.phase in self._remembered_s:
            yield self._remembered_s[lane.phase]


def usual(pages: Sequence[Page], phase: str) -> float | None:
    """Return the 99th percentile of how long a phase takes, in seconds; ``None``: not known."""
    return _quantile(pages, phase, MIN_COUNT)


def usual_at_least(pages: Sequence[Page], phase: str) -> float | None:
    """Return a bound below that percentile, known as soon as the phase was passed once."""
    found = _quantile(pages, phase, 1)
    return None if found is None else found / COARSE


def is_first(page: Page, lane: Lane) -> bool:
    """Return whether this is before the third step of an attempt, the first that counts."""
    if page.first_step is None:
        return True
    return lane.phase in STEP_PHASES and lane.step < page.first_step + 2


def _quantile(pages: Sequence[Page], phase: str, least: int) -> float | None:
    counts = [sum(each) for each in zip(*(page.counts[phase] for page in pages), strict=True)]
    total = sum(counts)
    if total < least:
        return None
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= QUANTILE * total:
            return edge_s(bucket)
    raise AssertionError("the counts add up")
