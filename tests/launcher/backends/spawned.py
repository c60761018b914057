"""A backend for tests: processes that are spawned in a way of their own, and end with a file.

Each attempt is a daemon behind two forks, no child of the launcher. That it ended, and how, is told
by a file. What a second backend needs is this file, a line in BACKENDS and its name in the schema.
Run as a script, it is ``distrain`` with that line.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from distrain.config.launch import LaunchConfig
from distrain.config.recipe import Recipe
from distrain.config.section import Section
from distrain.errors import ExitCode
from distrain.runs.folder import RunFolder
from launcher.backends.backend import BACKENDS
from launcher.backends.interrupt import clear_wishes
from launcher.backends.local import run_stages
from launcher.backends.protocol import JobState, RunJobs, Surroundings
from launcher.plan import Plan, StagePlan, stage_argv


class Daemon:
    """One attempt."""

    is_lost = False

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._pid, self._code = log.with_suffix(".pid"), log.with_suffix(".code")
        script = 'setsid sh -c \'echo $$ >"$1"; shift; code=$1; shift; "$@"; echo $? >"$code"\' '
        script += 'daemon "$@" &'
        for path in (self._pid, self._code):
            path.unlink(missing_ok=True)
        with log.open("ab") as output:
            subprocess.run(
                ["sh", "-c", script, "sh", self._pid, self._code, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=True,
            )

    @property
    def end(self) -> str:
        return f"daemon ended with {self._code.read_text().strip() or 'nothing'}"

    def wait(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not (self._code.exists() and self._code.read_text()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def kill(self) -> None:
        os.killpg(int(self._pid.read_text()), signal.SIGKILL)
        self._code.write_text("a kill\n")

    def close(self) -> None:
        if not self.wait(0):
            self.kill()


class SpawnedBackend:
    """Nothing of it is shared with the backend ``local`` but the rule of restarts."""

    is_queued = False

    def check(self, plan: Plan) -> list[str]:
        return ["daemons run here"]

    def render(self, plan: Plan) -> str:
        return "\n".join(f"daemon of {stage.name}" for stage in plan.stages)

    def start(self, plan: Plan, stages: Sequence[StagePlan], around: Surroundings) -> ExitCode:
        def start(stage: StagePlan, log: Path) -> Daemon:
            python = os.environ["DAEMONS_PYTHON"]
            return Daemon(stage_argv(stage, plan.run, python=python), log)

        clear_wishes(plan.run)
        return run_stages(plan, stages, around, start)

    def states(self, runs: Sequence[RunFolder]) -> list[RunJobs]:
        return [RunJobs(tuple(_jobs(run))) for run in runs]

    def cancel(self, run: RunFolder, stages: Iterable[str]) -> None:
        (run.root / "cancelled").write_text(" ".join(stages))


def _jobs(run: RunFolder) -> Iterable[JobState]:
    for path in sorted(run.root.glob("*/logs/*.pid")):
        alive = not path.with_suffix(".code").exists()
        stage, pid = path.parent.parent.name, path.read_text().strip()
        word = "alive" if alive else "ended"
        yield JobState(stage, "", pid, word, alive, alive, f"daemon {pid}")


def install() -> None:
    """Add the line, and the name to the schema."""
    BACKENDS["spawned"] = SpawnedBackend()
    LaunchConfig.model_fields["backend"].annotation = Literal["local", "spawned"]
    models: list[type[BaseModel]] = [LaunchConfig, Recipe, *Section.__subclasses__()]
    for model in models:  # they hold its schema
        model.model_rebuild(force=True)


if __name__ == "__main__":
    from launcher.commands.cli import main

    install()
    sys.exit(main(sys.argv[1:]))
