"""What reading a recipe costs over ruamel's own ``compose`` of the same text, run in turns."""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.measuring import machine_line, table
from distrain.config.reading.problems import ProblemList
from distrain.config.reading.yaml_source import parse_tree

ROUNDS = 7
QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
TEXTS = {
    "quickstart.yaml": QUICKSTART.read_text(encoding="utf-8"),
    "5,000 short items": "a:\n" + "- 1\n" * 5000,
    "one line of 5,000 numbers": "a: [" + ", ".join(map(str, range(5000))) + "]\n",
    "1,000 flow mappings": "a:\n" + "  - {name: x, weight: 0.25, on: true}\n" * 1000,
    "1,000 block mappings": "a:\n" + "  - name: some text\n    path: /data/x.txt\n" * 1000,
    "1,000 aliases of 1,000 values": (
        "a: &a [" + ", ".join(map(str, range(1000))) + "]\nb: [" + ", ".join(["*a"] * 1000) + "]\n"
    ),
}


def seconds(read: Callable[[str], object], text: str) -> float:
    """Read a text once and return the processor time."""
    started = time.process_time()
    read(text)
    return time.process_time() - started


def compose(text: str) -> object:
    """Read as ruamel does."""
    return YAML(typ="safe", pure=True).compose(text)


def parse(text: str) -> object:
    """Read as a recipe is read."""
    return parse_tree(text, "file", ProblemList())


def main() -> None:
    """Print the table."""
    rows = []
    for name, text in TEXTS.items():
        ruamel, ours = [], []
        for _ in range(ROUNDS):
            ruamel.append(seconds(compose, text))
            ours.append(seconds(parse, text))
        base, cost = statistics.median(ruamel), statistics.median(ours)
        rows.append([name, f"{base * 1e3:.1f} ms", f"{cost * 1e3:.1f} ms", f"{cost / base:.2f}"])
    header = ("text", "compose", "parse_tree", f"ratio (medians of {ROUNDS})")
    sys.stdout.write(f"{machine_line()}\n\n{table(header, rows)}\n")


if __name__ == "__main__":
    main()
