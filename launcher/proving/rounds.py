"""One stage, once from its beginning to its end, under faults that come by the clock."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distrain.errors import ExitCode
from distrain.runs.incidents import describe_place
from distrain.runs.planned_faults import happened, read_faults
from distrain.runs.progress_page import Page
from launcher.proving.blows import BLOWS, Target
from launcher.proving.draws import Draw, Due
from launcher.proving.launches import Course, Launch, ScratchRun
from launcher.proving.promises import HANGS, LAST_STEPS, unkept

TICK_S = 0.05
IN_VAIN = 20
"""Faults in a row without a newly committed step, after which nothing more can be shown."""
STALLED_S = 300.0
"""Without a new step, at least; then nobody has noticed a fault that must be noticed."""
IN_RANK = frozenset({"exception", "exit", "lock", "spin", "sleep"})


@dataclass
class Struck:
    """A fault that came, and what followed."""

    kind: str
    what: str
    step: int
    """Steps made before."""
    after_s: float
    """Since the round began."""
    file: str = ""
    """What tells that a planned fault has come."""
    followed: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    """Of the stage, until the next fault came."""
    attempt: int = 0
    """That was under way."""
    has_come: bool = False
    """A planned one, at its step."""
    lost_s: float | None = None
    """Until the first step of the next attempt; ``None``: another fault, or the end, came first."""
    drawn: Draw | None = None
    """By which it came."""

    @property
    def found_s(self) -> list[float]:
        """How old the last mark was when the watchdog acted, of each incident."""
        return [event["age_s"] for event in self.events if event["event"] == "hung"]


class StageRound:
    """Starts a stage in a scratch folder, strikes it, and starts it again until it has ended.

    Args:
        order: What is started; its plan of faults is there.
        stage: Name of the stage.
        stalled_s: Without a new step.
        in_steps: Let faults come one at a time, and only while an attempt makes steps; each is held
            to what its kind promises. Else several may meet, as in life, and only restarts are
            asked for.
    """

    def __init__(
        self,
        order: ScratchRun,
        stage: str,
        stalled_s: float = STALLED_S,
        *,
        in_steps: bool = False,
    ) -> None:
        assert order.faults is not None, "ranks look for planned faults"
        self.struck: list[Struck] = []
        self.problems: list[str] = []
        """What must not be, whatever the twin says."""
        self.by_step: dict[int, str] = {}
        """What followed faults that the twin has, too."""
        self._order, self._stage, self._plan = order, stage, order.faults
        self._stalled_s, self._in_steps = stalled_s, in_steps
        self._course = Course(order.run, stage)
        self._began_s = time.monotonic()
        self._committed = 0
        self._in_vain = 0
        self._hung = 0
        self.first_step_s: float | None = None
        """From the start to the first step, if no fault came before."""

    def run(self, due: Due, most: int) -> None:
        """Strike up to ``most`` times; returns when the stage has ended, or cannot end."""
        launch = Launch(self._order, [self._stage])
        looked_s = time.monotonic()
        try:
            while not self.problems:
                code = launch.wait(TICK_S)
                self._observe()
                if code is not None:
                    again = self._after(launch, code)
                    if again is None:
                        return
                    launch = again
                now, pages = time.monotonic(), self._targets(launch)
                # The clock stands while there is nothing to strike.
                due.clock_s += now - looked_s if pages else 0.0
                looked_s = now
                drawn = due.now if len(self.struck) < most else None
                if pages and drawn is not None and self._strike(launch, drawn):
                    due.has_come()
                self._check_bounds()
        finally:
            launch.close()
            self._finish(due)

    def _targets(self, launch: Launch) -> list[Page]:
        """Return the ranks, if they are where they may be struck."""
        pages = launch.ranks(self._stage)
        last = self.struck[-1] if self.struck else None
        return [] if self._in_steps and not makes_steps(pages, last) else pages

    def _strike(self, launch: Launch, drawn: Draw) -> bool:
        folder, pages = self._order.run.stage(self._stage), self._targets(launch)
        if not pages or self._course.is_done:
            return False
        attempt = self._course.begun()
        what = BLOWS[drawn.kind](Target(launch, folder, self._plan, pages, drawn.dice))
        if what is None:
            return False
        self._observe()  # a blow may have waited for its moment
        # A rank that has just started does not say yet how far its stage was.
        step = max(self._course.step, *(page.main.step for page in pages))
        struck = Struck(drawn.kind, what, step, time.monotonic() - self._began_s, drawn=drawn)
        struck.attempt = attempt
        if drawn.kind in IN_RANK:
            struck.file = str(happened(self._plan, read_faults(self._plan, self._stage)[-1]))
        self.struck.append(struck)
        self._in_vain += 1
        return True

    def _after(self, launch: Launch, code: int) -> Launch | None:
        """Go on after the end of a launcher: with another one, if it was struck."""
        left = launch.orphans()
        self.problems += [
            f"rank {page.rank} (process {page.pid}) outlived its launcher" for page in left
        ]
        launch.close()
        if self._course.is_done or self.problems:
            return None
        if code == ExitCode.STOPPED and self.struck and self.struck[-1].kind == "preempt":
            if self._course.committed() < self._course.step:
                self.problems.append(
                    f"step {self._course.step} was made and not saved, although there was time"
                )
        elif code >= 0:
            self.problems.append(
                f"the stage ended with exit code {code}:\n{self._order.last_lines()}"
            )
            return None
        if self.struck:
            self.struck[-1].followed.append("the same command again")
        return Launch(self._order, [self._stage])

    def _observe(self) -> None:
        for event in self._course.look():
            self._note(event)
        if self.struck:
            self._follow(self.struck[-1])
        if self._course.furthest and self.first_step_s is None and not self.struck:
            self.first_step_s = time.monotonic() - self._began_s
        committed = self._course.committed()
        if committed > self._committed:
            self._committed, self._in_vain = committed, 0

    def _follow(self, struck: Struck) -> None:
        now_s = time.monotonic() - self._began_s
        if struck.file and not struck.has_come:
            # It was planned for a step to come: what is lost begins there.
            struck.has_come, struck.after_s = Path(struck.file).exists(), now_s
        if struck.lost_s is None and self._course.attempt > struck.attempt:
            struck.lost_s = now_s - struck.after_s

    def _note(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind in ("nonfinite", "spike", "rewound"):
            self.by_step[int(event["step"])] = describe_event(event)
            return
        if kind == "hung":
            self._hung += 1
            if self._hung > sum(struck.kind in HANGS for struck in self.struck):
                self.problems.append(f"a false alarm: {describe_event(event)}")
        text = describe_event(event)
        if self.struck:
            self.struck[-1].events.append(event)
            self.struck[-1].followed += [text] if text else []

    def _check_bounds(self) -> None:
        if self._in_vain >= IN_VAIN:
            self.problems.append(
                f"{self._in_vain} faults in a row without a newly committed step (the last one is "
                f"{self._committed}): they come faster than the stage starts and saves"
            )
        stands_s = time.monotonic() - self._course.moved_s
        if stands_s > self._stalled_s:
            last = (
                f", after {self.struck[-1].kind} of {self.struck[-1].what}" if self.struck else ""
            )
            self.problems.append(
                f"no new step for {stands_s:.0f} s{last}:\n{self._order.last_lines()}"
            )

    def _finish(self, due: Due) -> None:
        """Forget planned faults that the stage ended before: they are due again."""
        for struck in reversed(self.struck):
            if struck.drawn and struck.file and not Path(struck.file).exists():
                due.put_back(struck.drawn)
        self.struck = [s for s in self.struck if not s.file or Path(s.file).exists()]
        if not self.problems and self._course.is_done:
            self.problems += self._unkept()

    def _unkept(self) -> list[str]:
        """Say which faults were not followed by what their kind promises."""
        ends = [struck.attempt for struck in self.struck[1:]] if self._in_steps else []
        ends += [self._course.begun()] * (len(self.struck) - len(ends))
        return [
            f"{struck.kind} of {struck.what}: expected {missing}; what followed: "
            + ("; ".join(struck.followed) or "nothing")
            for struck, end in zip(self.struck, ends, strict=True)
            if struck.step <= self._course.furthest - LAST_STEPS
            for missing in unkept(
                struck.kind,
                struck.what,
                (struck.attempt, end),
                struck.events,
                is_alone=self._in_steps,
            )
        ]


def makes_steps(pages: Sequence[Page], last: Struck | None) -> bool:
    """Return whether an attempt makes steps, and what struck the stage last is over.

    A second hang that is laid before the first one is found would halt the next attempt in the same
    place, which has twice the time for it: what is then lost is told of neither.
    """
    is_over = last is None or last.kind == "slow" or last.lost_s is not None
    return is_over and all(page.first_step is not None for page in pages)


def describe_event(event: dict[str, Any]) -> str:
    """Say in a few words what a stage's event tells of a fault; empty: nothing."""
    text = WORDS.get(event["event"], "")
    place = describe_place(str(event.get("phase")), int(event.get("step") or 0))
    return text.format_map({**event, "place": place})


WORDS = {
    "restarted": "started again ({reason})",
    "resumed": "went on from step {step}",
    "hung": "incident {incident}: rank {rank} in {place}",
    "quarantined": "put {checkpoint} aside: {reason}",
    "nonfinite": "not applied on any rank",
    "spike": "a spike of {metric}, {action}",
    "rewound": "rewound to step {step}",
    "checkpoint_failed": "a save failed",
    "failed": "failed for good",
}
"""By the kind of an event."""
