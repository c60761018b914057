"""CPU time of a training step, over that of a bare loop with the same engine, ranks and batch.

``python -m benchmarks.step_overhead``: single process, then FSDP2 on two ranks (under torchrun).
Both loops live in the same processes and take turns; the model is the quickstart's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from benchmarks.bare_loop import bare_step
from benchmarks.measuring import interleaved, machine_line, median_ratio, table
from distrain.config.recipe import PretrainStage
from distrain.data.samples.datasets import Signature
from distrain.data.samples.feed import OrderedStream
from distrain.data.samples.order import Order
from distrain.data.samples.rows import Ids, RowBuffer
from distrain.models import build_model
from distrain.models.init import initialize
from distrain.optim import build_optimizer
from distrain.parallel.process_group import finish
from distrain.runs.folder import RunFolder
from distrain.stages.pretrain import model_spec
from distrain.train.build import TrainTask, build_host, build_run
from distrain.train.loop import Clock, record, train_step
from distrain.train.progress import Progress

VOCAB_SIZE = 4096
STEPS_PER_ROUND = 6


class RandomTokens:
    """Rows of random ids, two documents each."""

    def __init__(self, size: int, sequence_length: int) -> None:
        dice = np.random.default_rng(0)
        self.sequence_length = sequence_length
        self.ids = dice.integers(4, VOCAB_SIZE, (size, sequence_length + 1))

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.ids)

    @property
    def signature(self) -> Signature:
        """What makes a sample what it is."""
        return ("random", *self.ids.shape)

    def fill(self, buffer: RowBuffer, rows: Ids, indices: Ids) -> None:
        """Write the samples ``indices`` into ``rows`` of the buffer."""
        ids = self.ids[indices]
        buffer.input_ids[rows], buffer.target_ids[rows] = ids[:, :-1], ids[:, 1:]
        buffer.begin_documents(rows * self.sequence_length + self.sequence_length // 2)


def quickstart_stage() -> PretrainStage:
    """Return the quickstart's pretraining sizes, without dropout."""
    return PretrainStage.model_validate(
        {
            "kind": "pretrain",
            "needs": "prepare",
            "training": {
                "sequence_length": 256,
                "global_batch_size": 8,
                "micro_batch_size": 4,
                "max_steps": 10_000,
            },
        }
    )


def measure() -> None:
    """Time both loops in this process; rank 0 prints a row."""
    stage = quickstart_stage()
    host = build_host(stage.training)
    task = TrainTask(
        run=RunFolder(Path(tempfile.mkdtemp(prefix="step-overhead-"))),
        name="pretrain",
        seed=1,
        stage=stage,
        train={"made": OrderedStream(RandomTokens(512, 256), Order(1, "made", 512), "made")},
        data=stage.data,
        validation={"made": RandomTokens(8, 256)},
        spec=partial(model_spec, stage, VOCAB_SIZE, 1),
        flops_per_token=1.0,
        attempt=1,
    )
    run = build_run(task, host)
    batches = run.loader.batches()
    steps = count()

    def ours() -> None:
        for _ in range(STEPS_PER_ROUND):
            run.wishes.agreed()
            clock = Clock()
            batch = next(batches)
            clock.data_arrived()
            step = next(steps)
            result = train_step(run, batch, step)
            record(run, Progress(step + 1), result, batch, clock)
            run.checkpoints.poll()

    model = build_model(stage.model, VOCAB_SIZE)
    initialize(model, 1)
    if host.world_size > 1:
        mesh = init_device_mesh("cpu", (host.world_size,))
        for block in model.model.layers:  # type: ignore[union-attr]
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = build_optimizer(model.named_parameters(), stage.optimizer).torch
    fixed = run.loader.batch_at(0).microbatches

    def bare() -> None:
        for _ in range(STEPS_PER_ROUND):
            bare_step(model, optimizer, fixed, stage.optimizer.max_grad_norm)

    ours()
    bare()  # warm
    samples = interleaved({"distrain": ours, "bare": bare})
    cpu = {name: host.sum(*(s.cpu_s for s in values)) for name, values in samples.items()}
    wall = {name: [s.wall_s for s in values] for name, values in samples.items()}
    batches.close()
    if host.rank == 0:
        row = [
            "single process" if host.world_size == 1 else f"FSDP2 x {host.world_size}",
            f"{median_ratio(cpu['distrain'], cpu['bare']):.3f}",
            f"{median_ratio(wall['distrain'], wall['bare']):.3f}",
            f"{sorted(cpu['bare'])[2] / STEPS_PER_ROUND:.3f}",
            f"{sum(os.getloadavg()[:1]):.1f}",
        ]
        sys.stdout.write("ROW " + "\t".join(row) + "\n")
    finish(0)


def main() -> None:
    """Run both cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="be one of the processes")
    if parser.parse_args().measure:
        torch.set_num_threads(1)
        measure()
    rows = []
    python = [sys.executable, "-m"]
    for launch in ([], ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--module"]):
        command = [*python, *launch, "benchmarks.step_overhead", "--measure"]
        output = subprocess.run(command, capture_output=True, text=True, check=False)
        found = [line for line in output.stdout.splitlines() if line.startswith("ROW ")]
        if not found:
            raise SystemExit(output.stdout + output.stderr)
        rows.append(found[0].removeprefix("ROW ").split("\t"))
    head = ("case", "CPU time / bare", "wall / bare", "bare: CPU s a step, all ranks", "load")
    sys.stdout.write(f"{machine_line()}\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
