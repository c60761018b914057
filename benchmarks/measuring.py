"""What every benchmark here shares: interleaved rounds, medians, and what the machine was doing."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import psutil

ROUNDS = 5
GIB = 2**30


@dataclass(frozen=True)
class Sample:
    """Seconds of one round: on the wall, and of this process's CPU time (user and system)."""

    wall_s: float
    cpu_s: float


def timed(body: Callable[[], None]) -> Sample:
    """Measure one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    body()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(
    bodies: dict[str, Callable[[], None]], rounds: int = ROUNDS
) -> dict[str, list[Sample]]:
    """Measure each body once a round, in an order that turns with the round."""
    samples: dict[str, list[Sample]] = {name: [] for name in bodies}
    names = list(bodies)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            samples[name].append(timed(bodies[name]))
    return samples


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Take the median over rounds of the ratio within each round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def machine_line() -> str:
    """Describe the machine and its load now."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, load average {load}, Python {platform.python_version()}, "
        f"torch {version('torch')}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def pss_bytes(root: psutil.Process) -> int:
    """Sum the proportional set sizes of a process and all below it."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total
