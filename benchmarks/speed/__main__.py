"""Steps and starts as shipped, over a loop as people write it, each in a process of its own.

``python -m benchmarks.speed [steps|fsdp|qwen3|compiled|page|start|start_qwen3] [--size nano ...]``.
The processes of a table live side by side; one at a time makes its steps, in an order drawn anew
each round. A ratio is that of CPU time within one round; median and quartiles over the rounds.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

from benchmarks.measuring import machine_line, table
from benchmarks.side_by_side import Worker, compare_workers, quartiles, ratios
from benchmarks.speed.sizes import SIZES
from benchmarks.speed.starting import start_rows


def start_worker(kind: str, size: str, ranks: int, root: Path) -> Worker:
    """Start one worker, under torchrun for several ranks."""
    folder = root / f"{kind}-{size}-{ranks}"
    python = [sys.executable, "-m"]
    if ranks > 1:
        launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--module"]
        python = [*python, *launch]
    command = [*python, "benchmarks.speed.workers", kind, size, str(folder)]
    return Worker.start(kind, folder, command, ranks)


def compare(kinds: Sequence[str], size: str, ranks: int, rounds: int) -> list[list[str]]:
    """Return one row for each kind after the first, which is the reference."""
    with tempfile.TemporaryDirectory() as root:
        starts = {kind: partial(start_worker, kind, size, ranks, Path(root)) for kind in kinds}
        samples = compare_workers(starts, rounds)
    reference = kinds[0]
    rows = []
    for kind in kinds[1:]:
        pair = samples[kind], samples[reference]
        cpu = quartiles(ratios(*pair, itemgetter("cpu_s")))
        wall = quartiles(ratios(*pair, itemgetter("wall_s")))
        peaks = "/".join(f"{samples[name][-1]['peak_mib']:.0f}" for name in (kind, reference))
        what = f"{kind} / {reference}, {size}" + (f", {ranks} ranks" if ranks > 1 else "")
        rows.append([what, cpu, wall, peaks, f"{os.getloadavg()[0]:.1f}"])
    return rows


TABLES: dict[str, Callable[[str, int], list[list[str]]]] = {
    "steps": lambda size, rounds: compare(("bare", "distrain"), size, 1, rounds),
    "fsdp": lambda size, rounds: compare(("bare", "distrain"), size, 2, rounds),
    "qwen3": lambda size, rounds: compare(("bare_qwen3", "distrain_qwen3"), size, 1, rounds),
    "compiled": lambda size, rounds: compare(("distrain", "distrain_compiled"), size, 1, rounds),
    "page": lambda size, rounds: compare(("distrain", "distrain_marked"), size, 1, rounds),
    "start": lambda size, rounds: start_rows(size, "llama", rounds, quartiles),
    "start_qwen3": lambda size, rounds: start_rows(size, "qwen3", rounds, quartiles),
}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", default=list(TABLES), choices=[*TABLES, list(TABLES)])
    parser.add_argument("--size", nargs="*", default=["nano"], choices=SIZES)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rows = [
        row
        for name in arguments.tables
        for size in arguments.size
        for row in TABLES[name](size, arguments.rounds)
    ]
    head = ("what", "CPU time (quartiles)", "wall (quartiles)", "peak MiB", "load")
    sys.stdout.write(f"{machine_line()}\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
