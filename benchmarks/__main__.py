"""All benchmarks, one after the other: ``make bench``; tables for ``docs/benchmarks.md``."""

import subprocess
import sys

BENCHMARKS = (
    "launcher_start",
    "yaml_reading",
    "attention",
    "loss",
    "examples",
    "finetuning",
    "optimizers",
    "guards",
    "certificate",
    "generating",
    "speed",
    "checkpoint_stall",
    "data.loader",
    "data.tokenize",
    "data.curation",
    "data.dedup",
    "data.packing",
    "chats",
    "examples_a_node",
    "quickstart",
)


def main() -> None:
    """Run each in a process of its own, so that none warms the next."""
    for name in BENCHMARKS:
        sys.stdout.write(f"\n## {name}\n\n")
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
