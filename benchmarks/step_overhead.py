"""CPU time of a training step, over that of a bare loop with the same engine, ranks and batch.

``python -m benchmarks.step_overhead [nano ...]``: each case in a single process, then under FSDP2
on two ranks (under torchrun). Both loops live in the same processes and take turns.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count, product
from pathlib import Path

import numpy as np
import torch
from torch import nn
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
from distrain.train.agreed import agree
from distrain.train.build import TrainSetup, build_host, build_run
from distrain.train.loop import Clock, record, train_step
from distrain.train.progress import Progress

VOCAB_SIZE = 4096


@dataclass(frozen=True)
class Case:
    """A model and its batch, for one number of ranks.

    Args:
        settings: Sections of a pretrain stage.
        steps: Of one round.
    """

    settings: Callable[[int], dict[str, object]]
    steps: int

    def stage(self, world_size: int) -> PretrainStage:
        """Return the stage over so many ranks, without dropout."""
        settings = self.settings(world_size)
        return PretrainStage.model_validate({"kind": "pretrain", "needs": "prepare"} | settings)


def quickstart(world_size: int) -> dict[str, object]:
    """Return the quickstart's sizes; the global batch is the same on two ranks."""
    del world_size
    return {
        "training": {
            "sequence_length": 256,
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "max_steps": 10_000,
        },
    }


def nano(world_size: int) -> dict[str, object]:
    """Return a model so small that what surrounds it shows; two samples a rank."""
    return {
        "model": {
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 768,
        },
        "training": {
            "sequence_length": 128,
            "global_batch_size": 2 * world_size,
            "micro_batch_size": 2,
            "max_steps": 10_000,
        },
        "parallelism": {"reshard_after_forward": False},
    }


CASES = {"quickstart": Case(quickstart, 6), "nano": Case(nano, 30)}


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


def build_bare(stage: PretrainStage, world_size: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Make the same model and optimizer by plain torch. Collective."""
    model = build_model(stage.model, VOCAB_SIZE)
    initialize(model, 1)
    if world_size > 1:
        mesh = init_device_mesh("cpu", (world_size,))
        reshard = stage.parallelism.reshard_after_forward
        for block in model.model.layers:  # type: ignore[union-attr]
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
        fully_shard(model, mesh=mesh)
    optimizer = build_optimizer(model.named_parameters(), stage.optimizer).torch
    return model, optimizer


def measure(name: str) -> None:
    """Time both loops of a case in this process; rank 0 prints a row."""
    case = CASES[name]
    stage = case.stage(int(os.environ.get("WORLD_SIZE", "1")))
    host = build_host(stage.training)
    length = stage.training.sequence_length
    setup = TrainSetup(
        run=RunFolder(Path(tempfile.mkdtemp(prefix="step-overhead-"))),
        name="pretrain",
        seed=1,
        stage=stage,
        train={"made": OrderedStream(RandomTokens(512, length), Order(1, "made", 512), "made")},
        data=stage.data,
        validation={"made": RandomTokens(8, length)},
        spec=partial(model_spec, stage, VOCAB_SIZE, 1),
        flops_per_token=1.0,
        attempt=1,
    )
    run = build_run(setup, host)
    batches = run.loader.batches()
    steps = count()

    def ours() -> None:
        for _ in range(case.steps):
            clock = Clock()
            own = run.wishes.own()
            batch = next(batches)
            clock.data_arrived()
            agreed = agree(run, batch, own)
            run.checkpoints.poll(agreed.is_saving)
            step = next(steps)
            result = train_step(run, batch, agreed, step)
            record(run, Progress(step + 1), result, clock)

    model, optimizer = build_bare(stage, host.world_size)
    fixed = run.loader.batch_at(0).microbatches

    def bare() -> None:
        for _ in range(case.steps):
            bare_step(model, optimizer, fixed, stage.optimizer.max_grad_norm)

    ours()
    bare()  # warm
    samples = interleaved({"distrain": ours, "bare": bare})
    cpu = {
        name: host.gather_numbers([s.cpu_s for s in values]).sum(axis=0).tolist()
        for name, values in samples.items()
    }
    wall = {name: [s.wall_s for s in values] for name, values in samples.items()}
    batches.close()
    if host.rank == 0:
        ranks = "single process" if host.world_size == 1 else f"FSDP2 x {host.world_size}"
        row = [
            f"{name}, {ranks}",
            f"{median_ratio(cpu['distrain'], cpu['bare']):.3f}",
            f"{median_ratio(wall['distrain'], wall['bare']):.3f}",
            f"{sorted(cpu['bare'])[2] / case.steps:.3f}",
            f"{sum(os.getloadavg()[:1]):.1f}",
        ]
        sys.stdout.write("ROW " + "\t".join(row) + "\n")
    finish(0)


def main() -> None:
    """Run all cases, or those named, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), choices=[*CASES, list(CASES)])
    parser.add_argument("--measure", action="store_true", help="be one of the processes")
    arguments = parser.parse_args()
    if arguments.measure:
        torch.set_num_threads(1)
        measure(arguments.cases[0])
    rows = []
    python = [sys.executable, "-m"]
    ranks = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--module"]
    for name, launch in product(arguments.cases, ([], ranks)):
        command = [*python, *launch, "benchmarks.step_overhead", name, "--measure"]
        output = subprocess.run(command, capture_output=True, text=True, check=False)
        found = [line for line in output.stdout.splitlines() if line.startswith("ROW ")]
        if not found:
            raise SystemExit(output.stdout + output.stderr)
        rows.append(found[0].removeprefix("ROW ").split("\t"))
    head = ("case", "CPU time / bare", "wall / bare", "bare: CPU s a step, all ranks", "load")
    sys.stdout.write(f"{machine_line()}\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
