"""What a restart costs beside a start: ``python -m benchmarks.restart [--torchrun]``.

Two ranks of a tiny model, as ``distrain run`` starts them. C0 is from the start of the stage's
processes to its first step. Then rank 1 gets SIGKILL right after a checkpoint, so that next to
nothing is made again, and the time to the next new step is taken; both in every trial, so that what
else the machine does weighs on both. ``--torchrun`` takes C0 of torchrun as well, with the same
stage and the same ranks.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import ROUNDS, machine_line, table
from distrain.runs.json_lines import read_records
from distrain.runs.progress_page import read_pages
from launcher.backends.page_folders import folders_of
from tests.tiny import command, environment, write_recipe

STEPS = 100_000
SAVE_STEPS = 50
NEXT_S = 120.0


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--torchrun", action="store_true", help="its cold start, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="distrain-restart-") as folder:
        recipe = write_recipe(Path(folder), processes=2, steps=STEPS)
        prepared = Path(folder) / "runs"
        launch(prepared, recipe, "prepare").wait()
        trials = [
            trial(Path(folder) / f"trial-{number}", prepared, recipe, arguments.torchrun)
            for number in range(arguments.rounds)
        ]
    print(machine_line())
    rows = [
        [f"{value:.2f}" if isinstance(value, float) else value for value in one.values()]
        for one in trials
    ]
    medians = [f"{statistics.median(one[name] for one in trials):.2f}" for name in trials[0]]
    print(table(list(trials[0]), [*rows, medians]))
    print("the last line: medians")


def trial(folder: Path, prepared: Path, recipe: Path, torchrun: bool) -> dict[str, float]:
    """Start the stage, kill a rank after a checkpoint, and take both times."""
    load = os.getloadavg()[0]
    found: dict[str, float] = {}
    if torchrun:
        found["torchrun s"] = start_of_torchrun(folder / "torchrun", prepared)
    shutil.copytree(prepared, folder / "runs")
    run = folder / "runs" / "tiny"
    launcher = launch(folder / "runs", recipe, "pretrain")
    try:
        begun = wait_for_line(folder / "runs.log", "pretrain: starts")
        cold_s = wait_for_step(run, 0) - begun
        saved = newest_save(run, SAVE_STEPS)
        victim = pid_of_rank(launcher.pid, 1)
        last = steps_made(run)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        again_s = wait_for_attempt(run, 2) - killed
        new_s = wait_for_step(run, last) - killed
    finally:
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
    found |= {"C0 s": cold_s, "kill to a step made again s": again_s, "of C0": again_s / cold_s}
    return found | {"to a new step s": new_s, "steps again": float(last - saved), "load": load}


def launch(runs: Path, recipe: Path, stage: str) -> "subprocess.Popen[bytes]":
    """Start ``distrain run``; its lines go to a file beside ``runs``."""
    with runs.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command(
                "run", str(recipe), "--only", stage, f"checkpoint.save_steps={SAVE_STEPS}",
                "eval.eval_steps=100000", "logging.logging_steps=1",
            ),
            env=environment(runs) | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log,
        )  # fmt: skip


def start_of_torchrun(folder: Path, prepared: Path) -> float:
    """Return how long torchrun takes to the first step."""
    shutil.copytree(prepared, folder)
    run = folder / "tiny"
    words = ("--standalone", "--nproc-per-node=2", "--module", "distrain", "stage", str(run))
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words, "pretrain"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return wait_for_step(run, 0) - begun
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def records_of(run: Path) -> list[dict[str, object]]:
    """Return the steps so far."""
    records = read_records(run / "pretrain" / "metrics.jsonl")
    return [record for record in records if "train/global_step" in record]


def steps_made(run: Path) -> int:
    """Return how many steps are recorded."""
    return max((int(str(record["train/global_step"])) for record in records_of(run)), default=0)


def wait_for_step(run: Path, after: int) -> float:
    """Wait for a step after another; return when it was seen."""
    return wait_until(lambda: steps_made(run) > after)


def wait_for_attempt(run: Path, attempt: int) -> float:
    """Wait for the first step that an attempt makes; return when it was seen."""
    return wait_until(lambda: any(record["attempt"] == attempt for record in records_of(run)))


def wait_for_line(log: Path, text: str) -> float:
    """Wait until the launcher says something; return when it was seen."""
    return wait_until(lambda: log.exists() and text in log.read_text())


def newest_save(run: Path, least: int) -> int:
    """Wait for a checkpoint; return its step."""
    saves = run / "pretrain" / "checkpoints"
    steps: list[int] = []

    def is_there() -> bool:
        steps[:] = [int(path.name[5:]) for path in saves.glob("step_*")]
        return max(steps, default=0) >= least

    wait_until(is_there)
    return max(steps)


def pid_of_rank(launcher: int, rank: int) -> int:
    """Return the process id of a rank, as its page tells it."""
    pages = [page for folder in folders_of(launcher, "pretrain") for page in read_pages(folder)]
    return next(page.pid for page in pages if page.rank == rank)


def wait_until(condition: Callable[[], bool]) -> float:
    """Look often; return when it held."""
    deadline = time.monotonic() + NEXT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing for {NEXT_S:.0f} s")
        time.sleep(0.01)
    return time.monotonic()


if __name__ == "__main__":
    main()
