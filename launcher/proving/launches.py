"""A ``distrain run`` in a scratch folder, started as a user would start it, and what it does."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.json_lines import RecordTail
from distrain.runs.progress_page import FAULTS, Page, started_ticks
from distrain.runs.records import STEP, is_validation, read_state
from launcher.backends.processes import Child
from launcher.proving.faults import ranks_of, wait_until_gone
from launcher.run_files import RUNS_DIR_VARIABLE

ORPHAN_LIMIT_S = 5.0
"""Within which ranks must have ended when their launcher was killed."""
LAST_LINES = 12


@dataclass(frozen=True)
class ScratchRun:
    """What is started, and where.

    Args:
        recipe: As on the command line; of ``resume`` the run's name.
        overrides: ``key=value``, as there.
        runs: Folder of runs.
        name: Of the run.
        faults: File of planned faults; ``None``: there are none.
        verb: The command.
    """

    recipe: str
    overrides: tuple[str, ...]
    runs: Path
    name: str
    faults: Path | None = None
    verb: Literal["run", "resume"] = "run"

    @property
    def run(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.runs / self.name)

    @property
    def log(self) -> Path:
        """What the launchers write."""
        return self.runs / "launcher.log"

    def last_lines(self) -> str:
        """Return the end of that."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])


class Launch:
    """One launcher at work on some stages. It dies with this process, and its ranks with it."""

    def __init__(self, order: ScratchRun, stages: Sequence[str]) -> None:
        self.order = order
        # Nothing of a scratch run goes to W&B, whatever the recipe says.
        env = os.environ | {RUNS_DIR_VARIABLE: str(order.runs), "WANDB_MODE": "disabled"}
        env |= {"NO_COLOR": "1"}
        env.pop(FAULTS, None)
        if order.faults is not None:
            env[FAULTS] = str(order.faults)
        only = [word for stage in stages for word in ("--only", stage)]
        argv = [sys.executable, "-m", "launcher", order.verb, order.recipe, *order.overrides, *only]
        self._child = Child(argv, env, order.log)
        self.pid = self._child.pid
        self.started = started_ticks(self.pid)
        self._seen: dict[int, Page] = {}
        self._is_closed = False

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end; returns its exit code, ``None`` if it still runs."""
        return self._child.code if self._child.wait(timeout_s) else None

    def ranks(self, stage: str) -> list[Page]:
        """Return the ranks of a stage that live now."""
        pages = ranks_of(self.pid, stage)
        self._seen |= {page.pid: page for page in pages}
        return pages

    def orphans(self) -> list[Page]:
        """Return the ranks that outlive a dead launcher; waits for them to end."""
        return wait_until_gone(list(self._seen.values()), ORPHAN_LIMIT_S)

    def close(self) -> None:
        """Leave no process behind; a second time does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._child.close()


class Course:
    """How far a stage is, over its attempts, from its records.

    Args:
        run: In which it is trained.
        stage: Its name.
        after: Attempts up to this one do not count; as where the run was copied with its records.
    """

    def __init__(self, run: RunFolder, stage: str, after: int = 0) -> None:
        self._folder: StageFolder = run.stage(stage)
        self._metrics = RecordTail(self._folder.metrics)
        self._events = RecordTail(run.events)
        self._stage, self._after = stage, after
        self.step = 0
        """Of the last step recorded; falls back at a resume."""
        self.step_s = 0.0
        """That it took."""
        self.recorded_s = time.monotonic()
        """When it was found."""
        self.furthest = 0
        self.moved_s = time.monotonic()
        """When the furthest step was reached."""
        self.attempt = 0
        """Which made the last step recorded."""

    def look(self) -> list[dict[str, Any]]:
        """Take note of new records; returns the stage's new events."""
        records = self._metrics.poll()
        steps = [
            record
            for record in records
            if not is_validation(record) and record.get("attempt", 0) > self._after
        ]
        if steps:
            self.step, self.attempt = int(steps[-1][STEP]), int(steps[-1]["attempt"])
            self.step_s = float(steps[-1].get("perf/step_time_s") or 0)
            self.recorded_s = time.monotonic()
        if self.step > self.furthest:
            self.furthest, self.moved_s = self.step, time.monotonic()
        return [event for event in self._events.poll() if event.get("stage") == self._stage]

    def committed(self) -> int:
        """Return the last committed step."""
        state = read_state(self._folder)
        return state["step"] if state else 0

    def begun(self) -> int:
        """Return how many attempts have begun."""
        state = read_state(self._folder)
        return state["attempt"] if state else 0

    @property
    def is_done(self) -> bool:
        """Whether the stage's own record says so."""
        state = read_state(self._folder)
        return state is not None and state["state"] == "done"
