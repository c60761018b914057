"""Processes that live side by side, of which one at a time makes a round when it is told to.

Each process is a worker with a folder of its own: it waits for ``go-N``, makes the round, leaves
``done-N-RANK``; ``stop`` ends it. What one costs is compared with another within the same round.
"""

import json
import os
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

ROUND_S = 600
"""Longest round; the first one holds the start of all processes."""
DRIVER_POLL_S = 0.01
WORKER_POLL_S = 0.005
MIB = 1024

Fields = dict[str, Any]


@dataclass(frozen=True)
class Worker:
    """A process, or the ranks of one, that makes rounds when told to."""

    name: str
    folder: Path
    ranks: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, name: str, folder: Path, command: Sequence[str], ranks: int = 1) -> "Worker":
        """Start one; it builds its model while the others are started."""
        folder.mkdir()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return cls(name, folder, ranks, subprocess.Popen(command, env=environment))

    def round(self, number: int) -> Fields:
        """Let it make one round; CPU time is summed over ranks, what else there is is rank 0's."""
        (self.folder / f"go-{number}").touch()
        done = [self.folder / f"done-{number}-{rank}" for rank in range(self.ranks)]
        end = time.monotonic() + ROUND_S
        while not all(path.exists() for path in done):
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{self.name} ended, or takes longer than {ROUND_S} s a round")
            time.sleep(DRIVER_POLL_S)
        found: list[Fields] = [json.loads(path.read_text()) for path in done]
        return found[0] | {
            "cpu_s": sum(fields["cpu_s"] for fields in found),
            "wall_s": max(fields["wall_s"] for fields in found),
            "peak_mib": max(fields["peak_kib"] for fields in found) / MIB,
        }

    def stop(self) -> None:
        """End it."""
        (self.folder / "stop").touch()
        self.process.wait(timeout=60)


class Rounds:
    """A worker's own view of its rounds.

    Args:
        folder: Of the worker.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rank = os.environ.get("RANK", "0")
        self._numbers = count()
        self._number = 0
        self._began = (0.0, 0.0)

    def begin(self) -> bool:
        """Wait until told to make a round; ``False``: there are no more."""
        self._number = next(self._numbers)
        while not (self._folder / f"go-{self._number}").exists():
            if (self._folder / "stop").exists():
                return False
            time.sleep(WORKER_POLL_S)
        self._began = (time.perf_counter(), time.process_time())
        return True

    def end(self, **fields: object) -> None:
        """Tell what the round has cost, and what else is known of it."""
        wall, cpu = self._began
        cost = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
        partial_file = self._folder / f"partial-{self._number}-{self._rank}"
        partial_file.write_text(json.dumps(cost | {"peak_kib": int(peak)} | fields))
        partial_file.rename(self._folder / f"done-{self._number}-{self._rank}")


def compare_workers(
    starts: Mapping[str, Callable[[], Worker]], rounds: int
) -> dict[str, list[Fields]]:
    """Start all, and let them make rounds in an order drawn anew each time.

    Returns:
        By worker what each round has told; the first one has warmed up.
    """
    with ExitStack() as stack:
        workers = {}
        for name, start in starts.items():
            workers[name] = start()
            stack.callback(workers[name].stop)
        samples: dict[str, list[Fields]] = {name: [] for name in starts}
        for number in range(rounds + 1):
            for name in random.sample(list(starts), len(starts)):
                samples[name].append(workers[name].round(number))
    return samples


def ratios(
    one: Sequence[Fields], other: Sequence[Fields], value: Callable[[Fields], float]
) -> list[float]:
    """Divide round by round, without the first."""
    return [value(a) / value(b) for a, b in zip(one[1:], other[1:], strict=True)]


def quartiles(values: Sequence[float]) -> str:
    """Write median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"
