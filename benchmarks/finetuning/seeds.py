"""The recipe ``smollm2-chat`` from start to export, with several seeds.

    python -m benchmarks.finetuning.seeds [--seeds 42 1 2] [SETTING=VALUE ...]

Held-out docstrings stand beside the base's, and so do ten chats about other things. What is aimed
at is said by the last column: time, memory, what the prompt adds, and what is forgotten.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring import GIB, machine_line, pss_bytes, table
from distrain.runs.folder import RunFolder
from distrain.runs.records import read_json

RECIPE = "smollm2-chat"
STAGES = ("sft", "evaluate", "general")
INTERVALS = ("prompt_gap", "prompt_gap_base", "prompt_gain", "gain")
SECONDS, MEMORY_GIB, FORGOTTEN = 360, 3.0, 0.2
"""At most; the last is of the loss on general chats."""
HEAD = (
    "seed",
    "split",
    "examples",
    "gap, shuffled less own prompts",
    "of the base",
    "more than the base's",
    "better than the base by",
    "ten general chats, base -> tuned",
    "wall s",
    "CPU s",
    "GiB",
    "reached",
)


@dataclass(frozen=True)
class Cost:
    """What a run took: of all its processes, their proportional memory at its most."""

    wall_s: float
    cpu_s: float
    peak_gib: float

    @property
    def is_within(self) -> bool:
        """Whether time and memory are what is aimed at."""
        return self.wall_s <= SECONDS and self.peak_gib <= MEMORY_GIB


def run(name: str, runs: Path, settings: list[str]) -> Cost:
    """Run the recipe under a name of its own and look on."""
    environment = {**os.environ, "DISTRAIN_RUNS_DIR": str(runs)}
    command = [sys.executable, "-m", "launcher", "run", RECIPE, f"name={name}", *settings]
    started, before = time.monotonic(), children_cpu_s()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    root, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        peak = max(peak, pss_bytes(root))
        time.sleep(0.25)
    if process.returncode != 0:
        raise SystemExit(f"{name} ended with exit code {process.returncode}; see {runs / name}")
    return Cost(time.monotonic() - started, children_cpu_s() - before, peak / GIB)


def children_cpu_s() -> float:
    """CPU seconds of the processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rows_of(seed: int, run_folder: RunFolder, cost: Cost) -> list[list[str]]:
    """Lay out what a run has reached: on its validation split, and on its test split."""
    results = {name: read_json(run_folder.stage(name).result) or {} for name in STAGES}
    general = results["general"]["data"]
    is_kept = general["loss"] - general["loss_base"] <= FORGOTTEN
    rows = []
    for split, stage in (("validation", "sft"), ("test", "evaluate")):
        answers = results[stage]["answers"]
        is_reached = cost.is_within and is_kept and answers["prompt_gain"]["low"] > 0
        rows.append(
            [
                str(seed),
                split,
                str(answers["examples"]),
                *(spread(answers[key]) for key in INTERVALS),
                f"{general['loss_base']:.3f} -> {general['loss']:.3f}",
                f"{cost.wall_s:.0f}",
                f"{cost.cpu_s:.0f}",
                f"{cost.peak_gib:.2f}",
                "yes" if is_reached else "no",
            ]
        )
    return rows


def spread(interval: dict[str, Any]) -> str:
    """Write a figure with its 95 % interval, nats a token."""
    return f"{interval['value']:+.3f} ({interval['low']:+.3f} to {interval['high']:+.3f})"


def main() -> None:
    """Run the recipe with each seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("settings", nargs="*", help="overrides of the recipe")
    arguments = parser.parse_args()
    runs = Path(tempfile.mkdtemp(prefix="smollm2-chat-"))
    rows: list[list[str]] = []
    for seed in arguments.seeds:
        name = f"seed-{seed}"
        cost = run(name, runs, [f"seed={seed}", *arguments.settings])
        found = rows_of(seed, RunFolder(runs / name), cost)
        print(*("  ".join(row) for row in found), sep="\n", file=sys.stderr, flush=True)
        rows += found
    sys.stdout.write(f"{machine_line()}\n\n{table(HEAD, rows)}\n\nruns: {runs}\n")


if __name__ == "__main__":
    main()
