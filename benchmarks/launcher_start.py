"""How long the launcher takes to answer: ``--help`` and ``validate``, median of nine."""

import statistics
import subprocess
import sys
import time

from benchmarks.measuring import machine_line, table

ROUNDS = 9
COMMANDS = {"--help": ["--help"], "validate quickstart": ["validate", "quickstart"]}


def seconds(arguments: list[str]) -> float:
    """Run one command and return its wall time."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "launcher", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    for arguments in COMMANDS.values():
        seconds(arguments)  # compiled files and page cache
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, arguments in COMMANDS.items():
            samples[name].append(seconds(arguments))
    rows = [
        [f"distrain {name}", f"{statistics.median(found):.2f} s", f"{min(found):.2f} s"]
        for name, found in samples.items()
    ]
    sys.stdout.write(f"{machine_line()}\n\n{table(('command', 'median of 9', 'best'), rows)}\n")


if __name__ == "__main__":
    main()
