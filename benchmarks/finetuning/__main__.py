"""CPU time per trained token of a step with LoRA, over TRL's SFTTrainer and a bare peft loop.

    python -m benchmarks.finetuning [--rounds 7] [--blocks 4] [--batch 4] [--steps 2] [--kinds ...]

The processes live side by side; one at a time makes its steps, in an order drawn anew each round.
A ratio is that of CPU time per trained token within one round; median and quartiles over rounds.
"""

import argparse
import os
import sys
import tempfile
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from benchmarks.finetuning.material import Material, prepare
from benchmarks.finetuning.workers import KINDS
from benchmarks.measuring import machine_line, table
from benchmarks.side_by_side import Fields, Worker, compare_workers, quartiles, ratios

PAIRS = (
    ("ours", "trl"),
    ("ours_packed", "trl"),
    ("ours_packed", "trl_packed"),
    ("ours", "bare"),
    ("ours", "trl_allocator"),
    ("ours", "trl_shipped"),
    ("trl_packed", "trl"),
    ("trl", "bare"),
)
SAME_STEPS = ("trl", "bare", "trl_allocator", "trl_shipped")
"""Kinds that train on the batches of ``ours``."""


def start(kind: str, material: Material, steps: int) -> Worker:
    """Start one process."""
    folder = material.folder / kind
    given = [kind, folder, material.folder, material.batch_size, steps]
    command = [sys.executable, "-m", "benchmarks.finetuning.workers", *map(str, given)]
    return Worker.start(kind, folder, command)


def cost(fields: Fields) -> float:
    """CPU seconds per trained token of a round."""
    return float(fields["cpu_s"] / fields["targets"])


def report(samples: dict[str, list[Fields]]) -> str:
    """Lay out the tables, and how far the losses of the same batches lie apart."""
    kinds = [
        [
            kind,
            f"{sum(map(cost, found[1:])) / len(found[1:]) * 1e3:.2f}",
            f"{sum(fields['targets'] for fields in found[1:]):,}",
            f"{found[-1]['peak_mib']:.0f}",
        ]
        for kind, found in samples.items()
    ]
    pairs = [
        [f"{one} / {other}", quartiles(ratios(samples[one], samples[other], cost))]
        for one, other in PAIRS
        if one in samples and other in samples
    ]
    losses = {
        kind: list(chain.from_iterable(fields["losses"] for fields in found))
        for kind, found in samples.items()
    }
    apart = [
        f"losses of ours and {kind}, {len(losses[kind])} steps: at most "
        f"{max(abs(a - b) for a, b in zip(losses['ours'], losses[kind], strict=True)):.1e} apart "
        f"({losses['ours'][0]:.4f} to {losses['ours'][-1]:.4f})"
        for kind in SAME_STEPS
        if kind in samples and "ours" in samples
    ]
    parts = [
        table(["", "CPU ms per trained token", "trained tokens", "peak MiB"], kinds),
        table(["", "CPU time per trained token (quartiles)"], pairs),
        *apart,
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        material = Material(Path(folder), batch_size=arguments.batch)
        what = prepare(material, arguments.blocks)
        starts = {kind: partial(start, kind, material, arguments.steps) for kind in arguments.kinds}
        samples = compare_workers(starts, arguments.rounds)
    peers = ", ".join(f"{name} {version(name)}" for name in ("trl", "transformers", "peft"))
    load = f"load after it {os.getloadavg()[0]:.1f}"
    sys.stdout.write(f"{machine_line()}, {peers}; {load}\n\n{what}\n\n{report(samples)}\n")


if __name__ == "__main__":
    main()
