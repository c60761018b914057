"""Samples made up on the spot, and a training run over them: for tests of the loop itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distrain.config.recipe import PretrainStage
from distrain.config.tasks import IGNORE_INDEX, TaskForm
from distrain.data.samples.datasets import Dataset
from distrain.data.samples.feed import OrderedStream
from distrain.data.samples.loader import Microbatch
from distrain.data.samples.order import Order
from distrain.data.samples.rows import Ids, RowBuffer
from distrain.data.samples.source import OpenedSource
from distrain.fault.wishes import Wish
from distrain.parallel.collectives import HostGroup
from distrain.parallel.model_spec import ModelSpec
from distrain.runs.folder import RunFolder
from distrain.stages.pretrain import model_spec
from distrain.tasks.task import Task, TaskSums
from distrain.train.build import TrainSetup, build_run
from distrain.train.loop import train
from distrain.train.run import Run

VOCAB_SIZE = 61
SEQUENCE_LENGTH = 24
GLOBAL_BATCH_SIZE = 8
ENGINES: dict[str, dict[str, object]] = {
    "single": {"strategy": "single"},
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "zero1": {"strategy": "deepspeed", "zero_stage": 1},
    "zero2": {"strategy": "deepspeed", "zero_stage": 2},
    "zero3": {"strategy": "deepspeed", "zero_stage": 3},
}
"""Each engine as the recipe's ``parallelism``; all but the first on two ranks."""


@dataclass(frozen=True)
class WrappedTask:
    """A task that is another one, but for how it measures."""

    honest: Task

    @property
    def form(self) -> TaskForm:
        return self.honest.form

    def denominators(self, microbatch: Microbatch) -> Sequence[float]:
        return self.honest.denominators(microbatch)


@dataclass(frozen=True)
class SpoiledTask(WrappedTask):
    """Does something to the trained sum of a task before the backward pass sees it."""

    spoil: Callable[[Tensor], Tensor]

    def measure(self, module: nn.Module, microbatch: Microbatch) -> TaskSums:
        measured = self.honest.measure(module, microbatch)
        return replace(measured, trained=self.spoil(measured.trained))


@dataclass(frozen=True)
class SpikedTask(SpoiledTask):
    """Spoils only microbatches that hold a marked row: a fault of the data."""

    rows: frozenset[bytes]

    def measure(self, module: nn.Module, microbatch: Microbatch) -> TaskSums:
        marked = any(row.numpy().tobytes() in self.rows for row in microbatch.target_ids)
        if marked:
            return super().measure(module, microbatch)
        return self.honest.measure(module, microbatch)


def spiked(run: Run, steps: Sequence[int]) -> Run:
    """Let steps, from 1, lead to a loss a hundred times as large, whenever they are computed."""
    firsts = np.array([run.loader.feed.schedule.samples_of(step - 1)[0] for step in steps])
    rows = run.loader.feed.rows(firsts).target_ids
    marked = frozenset(row.tobytes() for row in rows)
    return replace(run, task=SpikedTask(run.task, lambda loss: loss * 100.0, marked))


class SyntheticDataset:
    """Two documents a row, of unequal lengths, and unequal numbers of targets per row."""

    sequence_length = SEQUENCE_LENGTH
    signature = ("made",)

    def __init__(self, size: int, first: int = 0) -> None:
        self.size = size
        self.first = first

    def __len__(self) -> int:
        return self.size

    def fill(self, buffer: RowBuffer, rows: Ids, indices: Ids) -> None:
        for row, index in zip(rows.tolist(), indices, strict=True):
            dice = np.random.default_rng(self.first + int(index))
            start, stride = dice.integers(0, VOCAB_SIZE), dice.integers(1, 4)
            stream = (start + stride * np.arange(SEQUENCE_LENGTH + 1)) % VOCAB_SIZE
            buffer.input_ids[row], buffer.target_ids[row] = stream[:-1], stream[1:]
            cut = int(dice.integers(1, SEQUENCE_LENGTH))
            buffer.begin_documents(np.array([row * SEQUENCE_LENGTH + cut]))
            buffer.target_ids[row, dice.random(SEQUENCE_LENGTH) < dice.random()] = IGNORE_INDEX
            buffer.target_ids[row, 0] = 3  # no row is without a target


def make_stage(
    strategy: str = "auto",
    *,
    precision: str = "fp64",
    micro_batch_size: int = 2,
    max_steps: int = 40,
    dropout: float = 0.0,
    **sections: dict[str, object],
) -> PretrainStage:
    """A stage small enough for forty steps a second."""
    values: dict[str, object] = {
        "kind": "pretrain",
        "needs": ["prepare"],
        "model": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 40,
            "dropout": dropout,
            "attention_dropout": dropout,
            "embedding_dropout": dropout,
        },
        "training": {
            "sequence_length": SEQUENCE_LENGTH,
            "global_batch_size": GLOBAL_BATCH_SIZE,
            "micro_batch_size": micro_batch_size,
            "max_steps": max_steps,
            "precision": precision,
        },
        "optimizer": {"learning_rate": 3e-3, "max_grad_norm": 0.5},
        "lr_scheduler": {"warmup_steps": 4},
        "parallelism": {"strategy": strategy},
        "checkpoint": {"save_steps": 10},
        "eval": {"eval_steps": 10},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}  # type: ignore[dict-item]
    return PretrainStage.model_validate(values)


def make_run(
    folder: Path,
    stage: PretrainStage,
    seed: int = 5,
    held_out: Mapping[str, Dataset] | None = None,
    train: Mapping[str, OpenedSource] | None = None,
    spec: Callable[..., ModelSpec] = model_spec,
    **others: Any,
) -> Run:
    """Build everything as the pretrain stage does, with ``others`` of a setup. Collective."""
    torch.set_num_threads(1)
    setup = TrainSetup(
        run=RunFolder(folder),
        name="pretrain",
        seed=seed,
        stage=stage,
        train=train
        or {"made": OrderedStream(SyntheticDataset(500), Order(seed, "made", 500), "made")},
        data=stage.data,
        validation=held_out or {"made": SyntheticDataset(11)},
        spec=partial(spec, stage, VOCAB_SIZE, seed),
        flops_per_token=1e6,
        attempt=1,
        **{"count_bytes": lambda: np.full(VOCAB_SIZE, 3), **others},
    )
    return build_run(setup, HostGroup())


def finish(run: Run, stop: int | None = None) -> Wish:
    """Train until the end, or until rank 0 wishes to yield after ``stop`` steps; then close."""
    if stop is not None:
        stop_after(run, stop)
    _, wish = train(run)
    run.host.barrier()
    if run.monitor is not None:
        run.monitor.close()
    run.engine.close()
    return wish


def stop_after(run: Run, steps: int) -> None:
    """Let rank 0 wish to yield when ``steps`` steps were made."""
    calls: list[None] = []
    own = run.wishes.own

    def counted() -> Wish:
        calls.append(None)
        return Wish.YIELD if run.host.rank == 0 and len(calls) > steps else own()

    run.wishes.own = counted  # type: ignore[method-assign]
