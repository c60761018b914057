"""Whether the watchdog ends a run that is well: ``python -m benchmarks.false_alarms [CASE ...]``.

Whole runs of the scorecard's recipe, two ranks under FSDP, with limits as shipped: undisturbed,
under a load of eight busy processes, and suspended as a whole and continued, launcher and all. The
code is 1 if any of them was ended once.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.measuring import machine_line, table
from benchmarks.scorecard.__main__ import STAGE, write_recipe
from distrain.runs.folder import RunFolder
from distrain.runs.incidents import read_incidents
from distrain.runs.records import read_json

BUSY = 8
SUSPENDED_S, BETWEEN_S = 20.0, 20.0
SAVES = 200
"""Steps between saves, and between validations: fifty of each in ten thousand."""


def main() -> int:
    """Run the cases, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--steps", type=int, default=10_000)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="distrain-false-alarms-"))
    rows = [run_case(name, folder / name, arguments.steps) for name in arguments.cases or CASES]
    head = ["case", "steps", "incidents", "attempts", "wall s", "load at the end"]
    sys.stdout.write(f"{machine_line()}\n\n{table(head, rows)}\n")
    well = all(row[2:4] == ["0", "1"] and row[1] == str(arguments.steps) for row in rows)
    if well:
        shutil.rmtree(folder)
    return 0 if well else 1


def run_case(name: str, folder: Path, steps: int) -> list[str]:
    """Train once; return its row."""
    folder.mkdir()
    recipe = write_recipe(folder)
    overrides = [f"{STAGE}.training.max_steps={steps}", f"{STAGE}.checkpoint.save_steps={SAVES}",
                 f"{STAGE}.eval.eval_steps={SAVES}"]  # fmt: skip
    environment = os.environ | {"DISTRAIN_RUNS_DIR": str(folder / "runs")}
    begun = time.perf_counter()
    with (folder / "log").open("wb") as log:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "launcher", "run", str(recipe), *overrides],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        CASES[name](launcher)
        launcher.wait()
    finally:
        launcher.kill()
    stage = RunFolder(folder / "runs" / "scorecard").stage(STAGE)
    state = read_json(stage.state) or {}
    done = state.get("step", 0) if state.get("state") == "done" else "failed"
    seen = [done, len(read_incidents(stage)), state.get("attempt", 0)]
    seconds, load = time.perf_counter() - begun, os.getloadavg()[0]
    return [name, *map(str, seen), f"{seconds:.0f}", f"{load:.1f}"]


def undisturbed(launcher: "subprocess.Popen[bytes]") -> None:
    """Let it train."""


def under_load(launcher: "subprocess.Popen[bytes]") -> None:
    """Keep all cores busy several times over while it trains."""
    with busy():
        launcher.wait()


@contextmanager
def busy() -> Iterator[None]:
    """Have processes compute for nothing."""
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], stdout=subprocess.DEVNULL)
        for _ in range(BUSY)
    ]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def suspended(launcher: "subprocess.Popen[bytes]") -> None:
    """Stop it as a whole again and again, as a scheduler does, and continue it."""
    while launcher.poll() is None:
        time.sleep(BETWEEN_S)
        try:
            parent = psutil.Process(launcher.pid)
            whole = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for number, pause in ((signal.SIGSTOP, SUSPENDED_S), (signal.SIGCONT, 0.0)):
            for process in whole:
                if process.is_running():
                    process.send_signal(number)
            time.sleep(pause)


CASES = {"undisturbed": undisturbed, "load": under_load, "suspended": suspended}

if __name__ == "__main__":
    sys.exit(main())
