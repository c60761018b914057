"""The faults that come by the clock, and how each is brought about."""

import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from distrain.runs.folder import StageFolder
from distrain.runs.incidents import describe_place
from distrain.runs.planned_faults import FaultKind, PlannedFault, append_fault, read_faults
from distrain.runs.progress_page import WAITS_FOR_RANKS, Page, started_ticks
from launcher.proving.faults import (
    all_stopped,
    children_of,
    damage_newest,
    signal_process,
    slow_down,
    strike,
)
from launcher.proving.launches import Launch

SLOW_S = 3.0
WAITS_S = 3.0
"""For a rank to come where it shall be struck."""
LEARNED_AFTER = 25
"""Steps after which a watchdog knows how long a step takes: a rank that is busy for ever is found
by that alone, where one that does nothing is found by doing nothing."""


@dataclass(frozen=True)
class Target:
    """What may be struck.

    Args:
        launch: The launcher that is at work.
        folder: Of the stage.
        plan: File of faults for ranks.
        pages: Of the ranks that live now; at least one.
        dice: For all that is left to chance.
    """

    launch: Launch
    folder: StageFolder
    plan: Path
    pages: list[Page]
    dice: random.Random

    def any_rank(self) -> Page:
        """Draw one."""
        return self.dice.choice(self.pages)


IS_IN: Mapping[str, Callable[[Page], bool]] = {
    "in a collective": lambda page: page.main.waits == WAITS_FOR_RANKS,
    "in the update": lambda page: page.main.phase == "update",
    "in a save": lambda page: page.save is not None or page.main.phase == "save",
    "in a resume": lambda page: page.main.phase == "restore" and page.judged,
}

Blow = Callable[[Target], str | None]
"""Strikes; returns what was struck, in words, or ``None`` if that cannot be done at this moment."""


def kill(target: Target) -> str | None:
    """Kill a rank; every third time the launcher, every sixth what stands between the two."""
    chance = target.dice.random()
    if chance < 1 / 3:
        return kill_launcher(target)
    ranks = {page.pid for page in target.pages}
    between = [pid for pid in children_of(target.launch.pid) if pid not in ranks]
    if chance < 1 / 2 and between:
        pid = target.dice.choice(between)
        try:
            started = started_ticks(pid)
        except OSError:
            return None
        is_struck = signal_process(pid, started, signal.SIGKILL)
        return "the process between launcher and ranks" if is_struck else None
    return kill_rank(target)


def kill_rank(target: Target) -> str | None:
    """Kill one rank."""
    page = target.any_rank()
    return _rank(page) if strike(page) else None


def kill_launcher(target: Target) -> str | None:
    """Kill the launcher, and so all that it started."""
    launch = target.launch
    is_struck = signal_process(launch.pid, launch.started, signal.SIGKILL)
    return "the launcher" if is_struck else None


def kill_in(where: str) -> Blow:
    """Return the blow that kills a rank while it is somewhere, once one comes there."""

    def strike_there(target: Target) -> str | None:
        until = time.monotonic() + WAITS_S
        while time.monotonic() < until:
            for page in target.launch.ranks(target.folder.name):
                if IS_IN[where](page) and strike(page):
                    return f"rank {page.rank} {where}, step {page.main.step + 1}"
            time.sleep(0.001)
        return None

    return strike_there


def preempt(target: Target) -> str | None:
    """Ask the launcher to give the machine back: it saves, ends, and is started again."""
    launch = target.launch
    # Before there are steps there is nothing to save, and a signal is not listened to yet.
    if any(page.first_step is None for page in target.pages):
        return None
    number = target.dice.choice((signal.SIGTERM, signal.SIGINT))
    is_struck = signal_process(launch.pid, launch.started, number)
    return f"the launcher, by {number.name}" if is_struck else None


def kill_all(target: Target) -> str | None:
    """Kill all ranks at once."""
    struck = [page for page in target.pages if strike(page)]
    return f"all ranks, {_rank(struck[0])} among them" if struck else None


def crash(target: Target) -> str | None:
    """Let a rank end as by a defect of native code."""
    page = target.any_rank()
    number = target.dice.choice((signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS))
    return f"{_rank(page)}, by {number.name}" if strike(page, number) else None


def hang(target: Target) -> str | None:
    """Stop a rank."""
    # Before that its supervisor does not know yet what may be expected of it.
    judged = [page for page in target.pages if page.judged]
    if len(judged) < len(target.pages):
        return None
    page = target.any_rank()
    return _rank(page) if strike(page, signal.SIGSTOP) else None


def slow(target: Target) -> str | None:
    """Let a rank run half of the time, for three seconds; nobody may take that for a hang."""
    page = target.any_rank()
    slow_down(page, SLOW_S)
    return _rank(page)


def corrupt(target: Target) -> str | None:
    """Damage the newest checkpoint, then kill a rank, so that it is read."""
    with all_stopped(target.pages) as all_there:
        # A stage that has ended meanwhile reads it no more.
        if not all_there:
            return None
        try:
            changed = damage_newest(target.folder, target.dice)
        except OSError:
            return None
        page = target.any_rank()
        strike(page)
    return f"{changed}, then {_rank(page)}"


def in_rank(kind: FaultKind) -> Blow:
    """Return the blow by which a rank does something to itself before its next step."""

    def plan(target: Target) -> str | None:
        page = target.any_rank()
        step = page.main.step + 1
        if kind == "spin":
            if page.first_step is None:
                return None
            step = max(step, page.first_step + LEARNED_AFTER)
        number = len(read_faults(target.plan, target.folder.name)) + 1
        append_fault(target.plan, PlannedFault(number, kind, target.folder.name, step, page.rank))
        return f"rank {page.rank} at step {step}"

    return plan


BLOWS: Mapping[str, Blow] = {
    "kill": kill,
    "hang": hang,
    "slow": slow,
    "exception": in_rank("exception"),
    "corrupt": corrupt,
    "kill-rank": kill_rank,
    "kill-all": kill_all,
    "kill-collective": kill_in("in a collective"),
    "kill-update": kill_in("in the update"),
    "kill-save": kill_in("in a save"),
    "kill-resume": kill_in("in a resume"),
    "preempt": preempt,
    "kill-launcher": kill_launcher,
    "crash": crash,
    "exit": in_rank("exit"),
    "lock": in_rank("lock"),
    "spin": in_rank("spin"),
    "sleep": in_rank("sleep"),
}
"""By the name that ``--faults`` takes."""


def _rank(page: Page) -> str:
    return f"rank {page.rank} in {describe_place(page.main.phase, page.main.step)}"
