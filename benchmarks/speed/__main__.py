"""Steps and starts as shipped, over a loop as people write it, each in a process of its own.

``python -m benchmarks.speed [steps|fsdp|qwen3|compiled|start|start_qwen3] [--size nano ...]``. The
processes of a table live side by side; one at a time makes its steps, in an order drawn anew each
round. A ratio is that of CPU time within one round; median and quartiles over the rounds.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import machine_line, table
from benchmarks.speed.sizes import SIZES
from benchmarks.speed.starting import start_rows

STARTED_S = 300
POLL_S = 0.01
MIB = 1024


@dataclass(frozen=True)
class Worker:
    """A process, or the ranks of one, that makes rounds when told to."""

    name: str
    folder: Path
    ranks: int
    process: subprocess.Popen[bytes]

    def round(self, number: int) -> dict[str, float]:
        """Let it make one round; the CPU time is summed over ranks."""
        (self.folder / f"go-{number}").touch()
        done = [self.folder / f"done-{number}-{rank}" for rank in range(self.ranks)]
        end = time.monotonic() + STARTED_S
        while not all(path.exists() for path in done):
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{self.name} ended, or takes longer than {STARTED_S} s a round")
            time.sleep(POLL_S)
        found = [json.loads(path.read_text()) for path in done]
        return {
            "cpu_s": sum(fields["cpu_s"] for fields in found),
            "wall_s": max(fields["wall_s"] for fields in found),
            "peak_mib": max(fields["peak_kib"] for fields in found) / MIB,
        }

    def stop(self) -> None:
        """End it."""
        (self.folder / "stop").touch()
        self.process.wait(timeout=60)


def start_worker(kind: str, size: str, ranks: int, root: Path) -> Worker:
    """Start one worker; it builds its model while the others are started."""
    folder = root / f"{kind}-{size}-{ranks}"
    folder.mkdir()
    python = [sys.executable, "-m"]
    if ranks > 1:
        launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--module"]
        python = [*python, *launch]
    command = [*python, "benchmarks.speed.workers", kind, size, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return Worker(kind, folder, ranks, subprocess.Popen(command, env=environment))


def compare(kinds: Sequence[str], size: str, ranks: int, rounds: int) -> list[list[str]]:
    """Return one row for each kind after the first, which is the reference."""
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        workers = {kind: start_worker(kind, size, ranks, Path(root)) for kind in kinds}
        for worker in workers.values():
            stack.callback(worker.stop)
        samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for number in range(rounds + 1):  # the first warms up
            for kind in random.sample(list(kinds), len(kinds)):
                sample = workers[kind].round(number)
                if number:
                    samples[kind].append(sample)
    reference = kinds[0]
    rows = []
    for kind in kinds[1:]:
        cpu = quartiles(ratios(samples, kind, reference, "cpu_s"))
        wall = quartiles(ratios(samples, kind, reference, "wall_s"))
        peaks = "/".join(f"{samples[name][-1]['peak_mib']:.0f}" for name in (kind, reference))
        what = f"{kind} / {reference}, {size}" + (f", {ranks} ranks" if ranks > 1 else "")
        rows.append([what, cpu, wall, peaks, f"{os.getloadavg()[0]:.1f}"])
    return rows


def ratios(
    samples: dict[str, list[dict[str, float]]], kind: str, reference: str, field: str
) -> list[float]:
    """Divide round by round."""
    pairs = zip(samples[kind], samples[reference], strict=True)
    return [one[field] / other[field] for one, other in pairs]


def quartiles(values: Sequence[float]) -> str:
    """Write median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


TABLES: dict[str, Callable[[str, int], list[list[str]]]] = {
    "steps": lambda size, rounds: compare(("bare", "distrain"), size, 1, rounds),
    "fsdp": lambda size, rounds: compare(("bare", "distrain"), size, 2, rounds),
    "qwen3": lambda size, rounds: compare(("bare_qwen3", "distrain_qwen3"), size, 1, rounds),
    "compiled": lambda size, rounds: compare(("distrain", "distrain_compiled"), size, 1, rounds),
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
