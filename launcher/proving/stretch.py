"""A few steps of a stage, trained in a scratch copy of its run, with kills on the way."""

import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from distrain.runs.failures import failure_of
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import read_state
from launcher.proving.faults import signal_process, strike, wait_until_gone
from launcher.proving.launches import Course, Launch, ScratchRun
from launcher.proving.scratch import checkpoints_of

POLL_S = 0.02
NO_PROGRESS_S = 900.0
"""After which a stretch is given up; the watchdog of the copy has its own, shorter limits."""
MAX_SPARE_RESTARTS = 3
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
    state = read_state(folder)  # what the run itself recorded does not count
    course = Course(copy, stretch.stage, after=state["attempt"] if state else 0)
    settings = tuple(stretch.settings(ranks, len(kills)))
    name, runs = copy.root.name, copy.root.parent
    order = ScratchRun(name, settings, runs, name, verb="resume")
    # One launch a kill of the launcher, and the last one: more would be somebody else's kills.
    for _ in range(len(kills) + 1):
        launch = Launch(order, [stretch.stage])
        try:
            code = _watch(launch, copy, stretch, course, left, trained)
        finally:
            launch.ranks(stretch.stage)
            launch.close()
            launch.orphans()
        if code == -signal.SIGKILL:
            continue
        if code is None:
            trained.failure = f"no new step in {NO_PROGRESS_S:.0f} s"
        elif not _is_there(folder, stretch.end):
            trained.failure = _why(folder, order, code)
        elif kills and not trained.struck:
            trained.failure = "its end came before the first kill: ask for more steps"
        return trained
    trained.failure = "its launcher was killed by somebody else"
    return trained


def _watch(
    launch: Launch,
    copy: RunFolder,
    stretch: Stretch,
    course: Course,
    left: list[Kill],
    trained: Trained,
) -> int | None:
    """Watch one launcher, and strike when it is time; returns its exit code, ``None``: it hung."""
    folder = copy.stage(stretch.stage)
    while (code := launch.wait(POLL_S)) is None:
        course.look()
        if time.monotonic() - course.recorded_s > NO_PROGRESS_S:
            return None
        if left and course.step >= left[0].step:
            time.sleep(left[0].delay * course.step_s)
            struck = _strike(launch, stretch.stage, left[0])
            if struck is not None:
                course.look()
                trained.struck.append(f"{struck} in step {course.step + 1}")
                del left[0]
        elif not left and _is_there(folder, stretch.end) and not copy.stop.exists():
            # It saves and ends after whichever step comes next.
            copy.control.mkdir(parents=True, exist_ok=True)
            copy.stop.touch()
    return code


def _strike(launch: Launch, stage: str, kill: Kill) -> str | None:
    """Kill; ``None``: there is nothing to kill at this moment."""
    pages = launch.ranks(stage)
    if not pages:
        return None
    if kill.what == "the launcher":
        is_struck = signal_process(launch.pid, launch.started, signal.SIGKILL)
        return kill.what if is_struck else None
    victims = pages if kill.what == "all ranks" else [pages[kill.rank % len(pages)]]
    struck = [page for page in victims if strike(page)]
    if not struck:
        return None
    wait_until_gone(victims)
    return f"rank {struck[0].rank}" if len(struck) == 1 else kill.what


def _is_there(folder: StageFolder, step: int) -> bool:
    return any(number == step for number, _ in checkpoints_of(folder))


def _why(folder: StageFolder, order: ScratchRun, code: int) -> str:
    failure = failure_of(folder)
    return failure.error if failure is not None else f"exit code {code}: {order.last_lines()}"


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
