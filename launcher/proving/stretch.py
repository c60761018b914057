"""A few steps of a stage, trained in a scratch copy of its run, with kills on the way."""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distrain.runs.failures import failure_of
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.json_lines import RecordTail, read_records
from distrain.runs.progress_page import Page, started_ticks
from distrain.runs.records import STEP, is_validation, read_state
from launcher.backends.incidents import is_same_process
from launcher.backends.page_folders import MEMORY
from launcher.backends.processes import Child
from launcher.proving.faults import ranks_of, signal_process, strike, wait_until_gone
from launcher.proving.scratch import checkpoints_of
from launcher.run_files import RUNS_DIR_VARIABLE

POLL_S = 0.02
NO_PROGRESS_S = 900.0
"""After which a stretch is given up; the watchdog of the copy has its own, shorter limits."""
MAX_SPARE_RESTARTS = 3
CODE_STOPPED = 75
LAST_LINES = 6
KILLS = ("one rank", "all ranks", "the launcher")


@dataclass(frozen=True)
class Stretch:
    """What is trained.

    Args:
        stage: Of the run.
        start: Step of the checkpoint that it begins from.
        end: Its last step, after which a checkpoint is written.
        every: Steps between checkpoints; ``end`` is a multiple.
    """

    stage: str
    start: int
    end: int
    every: int

    def settings(self, ranks: int, kills: int) -> list[str]:
        """Return what differs from the recipe: where it runs, and when it saves."""
        kept = (self.end - self.start) // self.every + 2
        return [
            "launch.backend=local",
            "launch.nodes=1",
            f"launch.processes_per_node={ranks}",
            f"launch.max_restarts={kills + MAX_SPARE_RESTARTS}",
            f"{self.stage}.checkpoint.save_steps={self.every}",
            f"{self.stage}.checkpoint.keep_last={kept}",
        ]


@dataclass(frozen=True)
class Kill:
    """One blow: once a step is recorded, and a moment after that.

    Args:
        step: From 1.
        what: One of ``KILLS``.
        delay: In steps' durations, so that it may fall anywhere in a step.
        rank: Which one, modulo the number there are.
    """

    step: int
    what: str
    delay: float
    rank: int


def draw_kills(stretch: Stretch, count: int, seed: str) -> list[Kill]:
    """Draw kills; the same seed, the same kills."""
    dice = random.Random(f"prove {seed}")
    # Not after the last step: what would be made again by then is nothing.
    steps = range(stretch.start + 1, stretch.end)
    chosen = sorted(dice.choices(steps, k=count)) if steps else []
    return [
        Kill(step, dice.choice(KILLS), dice.random(), dice.randrange(1 << 16)) for step in chosen
    ]


@dataclass
class Trained:
    """How it went.

    Args:
        struck: What was killed, in words.
        failure: Why it did not come to its end; ``None``: it did.
    """

    struck: list[str] = field(default_factory=list)
    failure: str | None = None


def train_stretch(copy: RunFolder, stretch: Stretch, ranks: int, kills: Sequence[Kill]) -> Trained:
    """Let a scratch copy go on to the end of a stretch.

    Args:
        copy: Its stage has been returned to the checkpoint of the first step.
        stretch: What is trained.
        ranks: Processes.
        kills: In the order of their steps.
    """
    folder, trained, left = copy.stage(stretch.stage), Trained(), list(kills)
    course = _Course(folder)
    while True:
        launch = _Launch(copy, stretch.stage, stretch.settings(ranks, len(kills)))
        try:
            code = _watch(launch, copy, stretch, course, left, trained)
        finally:
            launch.close()
        if code is None:
            trained.failure = f"no new step in {NO_PROGRESS_S:.0f} s"
        elif code != -signal.SIGKILL and not _is_there(folder, stretch.end):
            trained.failure = _why(folder, launch.log, code)
        elif code == -signal.SIGKILL:
            continue
        return trained


def _watch(
    launch: "_Launch",
    copy: RunFolder,
    stretch: Stretch,
    course: "_Course",
    left: list[Kill],
    trained: Trained,
) -> int | None:
    """Watch one launcher, and strike when it is time; returns its exit code, ``None``: it hung."""
    folder = copy.stage(stretch.stage)
    while not launch.child.wait(POLL_S):
        course.look()
        if time.monotonic() - course.moved_s > NO_PROGRESS_S:
            return None
        if left and course.step >= left[0].step:
            time.sleep(left[0].delay * course.step_s)
            struck = launch.strike(left[0])
            if struck is not None:
                trained.struck.append(f"{struck} in step {course.look() + 1}")
                del left[0]
        elif not left and _is_there(folder, stretch.end) and not copy.stop.exists():
            # It saves and ends after whichever step comes next.
            copy.control.mkdir(parents=True, exist_ok=True)
            copy.stop.touch()
    return launch.child.code


class _Course:
    """How far the attempts in the copy are; what the run itself recorded does not count."""

    def __init__(self, folder: StageFolder) -> None:
        state = read_state(folder)
        self._before = state["attempt"] if state else 0
        self._tail = RecordTail(folder.metrics)
        self._last: object = None
        self.step = 0
        self.step_s = 0.0
        self.moved_s = time.monotonic()

    def look(self) -> int:
        """Read new records; returns the newest step."""
        for record in self._tail.poll():
            if record.get("attempt", 0) > self._before and not is_validation(record):
                self.step = int(record[STEP])
                self.step_s = float(record["perf/step_time_s"])
                self.moved_s = time.monotonic()
        return self.step


class _Launch:
    """A ``distrain resume`` of the copy."""

    def __init__(self, copy: RunFolder, stage: str, settings: Sequence[str]) -> None:
        env = os.environ | {
            RUNS_DIR_VARIABLE: str(copy.root.parent),
            "WANDB_MODE": "disabled",  # nothing of a scratch copy leaves this machine
            "NO_COLOR": "1",
        }
        words = ["resume", copy.root.name, *settings, "--only", stage]
        self.log = copy.root.parent / f"{copy.root.name}.log"
        self.child = Child([sys.executable, "-m", "launcher", *words], env, self.log)
        self._started = started_ticks(self.child.pid)
        self._stage = stage
        self._seen: dict[int, Page] = {}

    def strike(self, kill: Kill) -> str | None:
        """Kill; ``None``: there is nothing to kill at this moment."""
        pages = ranks_of(self.child.pid, self._stage)
        self._seen |= {page.pid: page for page in pages}
        if not pages:
            return None
        if kill.what == "the launcher":
            return (
                kill.what if signal_process(self.child.pid, self._started, signal.SIGKILL) else None
            )
        victims = pages if kill.what == "all ranks" else [pages[kill.rank % len(pages)]]
        struck = [page for page in victims if strike(page)]
        if not struck:
            return None
        wait_until_gone(victims)
        return f"rank {struck[0].rank}" if len(struck) == 1 else kill.what

    def close(self) -> None:
        """Leave no process, and no page: a launcher that was killed could not remove its own."""
        self._seen |= {page.pid: page for page in ranks_of(self.child.pid, self._stage)}
        self.child.close()
        for page in wait_until_gone(list(self._seen.values())):
            if is_same_process(page):
                strike(page)
        for root in (MEMORY, Path(tempfile.gettempdir())):
            for folder in root.glob(f"distrain-{self._stage}-*-{self.child.pid}-*"):
                shutil.rmtree(folder, ignore_errors=True)


def _is_there(folder: StageFolder, step: int) -> bool:
    return any(number == step for number, _ in checkpoints_of(folder))


def _why(folder: StageFolder, log: Path, code: int) -> str:
    failure = failure_of(folder)
    if failure is not None:
        return failure.error
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    return f"exit code {code}: " + " / ".join(lines)


def certificates(copy: RunFolder, stage: str, since: int) -> Iterator[tuple[str, list[str]]]:
    """Yield of each resume in a copy how steps were compared, and what was found.

    Args:
        copy: Of the run.
        stage: Its name.
        since: Attempts of the run itself.
    """
    for event in read_records(copy.events):
        is_own = event.get("stage") == stage and event.get("attempt", 0) > since
        if is_own and event.get("event") in ("certified", "not_certified"):
            yield str(event["again"]), list(event["found"])
