"""CPU time of a training step with the guards against spikes, over that without them.

``python -m benchmarks.guards``: the model of the tests of the loop and one of nano size, in one
process; steps with a full window of values, guards on and off by turns. Without them, nothing is
judged, counted or looked up.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.measuring import interleaved, machine_line, median_ratio, table
from distrain.train.agreed import agree
from distrain.train.guards import Guards
from distrain.train.loop import make_step
from distrain.train.run import Run
from tests.distrain.train.synthetic import make_run, make_stage

ROUNDS, STEPS = 15, 20
NANO = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 768,
}


class NoGuards(Guards):
    """Sees nothing."""

    def find(self, *_: object) -> None:
        """Find no spike."""

    def skip_of(self, *_: object) -> None:
        """Leave nothing out."""

    def count(self, *_: object) -> None:
        """Keep no value."""


def stretch(run: Run) -> Callable[[], None]:
    """Return what makes the same few steps."""
    batches = [run.loader.batch_at(step) for step in range(STEPS)]
    agreed = [agree(run, batch) for batch in batches]

    def body() -> None:
        for step, (batch, known) in enumerate(zip(batches, agreed, strict=True)):
            run.guards.count(make_step(run, batch, known, step))

    return body


def ratio(folder: Path, model: dict[str, object]) -> tuple[float, float]:
    """Return the ratio, and milliseconds of CPU time of a step without guards."""
    stage = make_stage("single", precision="fp32", model=model)
    on = make_run(folder, stage)
    for number in range(stage.training.spikes.window):
        on.guards._finder.take(4 + 0.01 * (number % 17), 1 + 0.01 * (number % 13))
    off = replace(on, guards=NoGuards(stage.training, on.guards._folder, on.host))
    bodies = {"on": stretch(on), "off": stretch(off)}
    for body in bodies.values():
        body()
    found = {
        name: [sample.cpu_s for sample in samples]
        for name, samples in interleaved(bodies, ROUNDS).items()
    }
    return median_ratio(found["on"], found["off"]), 1e3 * min(found["off"]) / STEPS


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows = []
    for name, model in (("tests", {}), ("nano", NANO)):
        with tempfile.TemporaryDirectory() as folder:
            found, step_ms = ratio(Path(folder), dict(model))
        rows.append([name, f"{step_ms:.1f}", f"{found:.4f}"])
    head = ["model", "step without guards, ms", "CPU time with guards / without"]
    sys.stdout.write(f"{machine_line()}\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
