"""CPU time of a training step and of a resume with the resume certificate, over that without it.

``python -m benchmarks.certificate``: in one process, by turns. Steps are the first ones after a
resume, each compared with its record, and then a checkpoint's digest of the next samples; a resume
reads, verifies and loads a checkpoint, and hashes what it loaded.
"""

import logging
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.guards import NANO, STEPS
from benchmarks.measuring import interleaved, machine_line, median_ratio, table
from distrain.train.agreed import agree
from distrain.train.certificate import Certifier
from distrain.train.loop import make_step, train
from distrain.train.run import Run
from tests.distrain.train.synthetic import make_run, make_stage

ROUNDS = 15


class NoCertifier(Certifier):
    """Compares nothing."""

    def check_state(self, *_: object) -> None:
        """Hash nothing."""

    def begin_anew(self) -> None:
        """Read no records."""

    def check_step(self, *_: object) -> None:
        """Compare no step."""


def without(run: Run) -> Run:
    """Return the same run, whose resumes are not compared."""
    old = run.certifier
    trained = run.task.form.trained.name
    off = NoCertifier(old._folder, run.host, old.computed_on, trained, run.monitor)
    return replace(run, certifier=off)


def stretch(run: Run, *, is_on: bool) -> Callable[[], None]:
    """Return what makes the same steps, with what a resume and a checkpoint add to them."""
    batches = [run.loader.batch_at(step) for step in range(STEPS)]
    agreed = [agree(run, batch) for batch in batches]

    def body() -> None:
        run.certifier.begin_anew()
        for step, (batch, known) in enumerate(zip(batches, agreed, strict=True)):
            result = make_step(run, batch, known, step)
            run.certifier.check_step(step + 1, result)
        if is_on:
            run.loader.feed.next_samples(STEPS)

    return body


def resume(run: Run) -> Callable[[], None]:
    """Return what goes back to the checkpoint."""

    def body() -> None:
        run.restore()

    return body


def ratios(folder: Path, model: dict[str, object]) -> list[str]:
    """Return CPU milliseconds without, and the ratio, of a step and of a resume."""
    stage = make_stage("single", precision="fp32", model=model, max_steps=STEPS)
    train(make_run(folder, stage))
    on = make_run(folder, stage)
    off = without(on)
    cells = []
    for bodies, count in (
        ({"on": stretch(on, is_on=True), "off": stretch(off, is_on=False)}, STEPS),
        ({"on": resume(on), "off": resume(off)}, 1),
    ):
        for body in bodies.values():
            body()
        found = {
            name: [sample.cpu_s for sample in samples]
            for name, samples in interleaved(bodies, ROUNDS).items()
        }
        ratio = median_ratio(found["on"], found["off"])
        cells += [f"{1e3 * min(found['off']) / count:.1f}", f"{ratio:.4f}"]
    return cells


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    logging.disable()  # weights go on meanwhile, so what is compared differs
    rows = []
    for name, model in (("tests", {}), ("nano", NANO)):
        with tempfile.TemporaryDirectory() as folder:
            rows.append([name, *ratios(Path(folder), dict(model))])
    head = ["model", "step without, ms", "with / without", "resume without, ms", "with / without"]
    sys.stdout.write(f"{machine_line()}\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
