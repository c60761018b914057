"""A training run over random tokens, built as a stage builds it."""

import os
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.speed.sizes import Size
from distrain.config.recipe import PretrainStage
from distrain.data.samples.datasets import Signature
from distrain.data.samples.feed import OrderedStream
from distrain.data.samples.order import Order
from distrain.data.samples.rows import Ids, RowBuffer
from distrain.runs.folder import RunFolder
from distrain.stages.pretrain import model_spec
from distrain.train.build import TrainSetup, build_host, build_run
from distrain.train.run import Run

NUM_SAMPLES = 512


class RandomRows:
    """Rows of random ids, one document each."""

    def __init__(self, vocab_size: int, sequence_length: int, num_samples: int) -> None:
        dice = np.random.default_rng(0)
        self.sequence_length = sequence_length
        self.ids = dice.integers(4, vocab_size, (num_samples, sequence_length + 1))

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


def build_synthetic(
    size: Size, model: dict[str, object], folder: Path, *, compile_blocks: bool = False
) -> Run:
    """Build a run of that size; as many ranks as torchrun started. Collective."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    stage = PretrainStage.model_validate(
        {
            "kind": "pretrain",
            "needs": "prepare",
            "model": model,
            "optimizer": {"max_grad_norm": 1.0},
            "training": {
                "sequence_length": size.sequence_length,
                "global_batch_size": size.batch_size * world_size,
                "micro_batch_size": size.batch_size,
                "max_steps": 1_000_000,
                "compile": compile_blocks,
            },
            "parallelism": {"reshard_after_forward": False},
        }
    )
    rows = RandomRows(size.vocab_size, size.sequence_length, NUM_SAMPLES)
    setup = TrainSetup(
        run=RunFolder(folder),
        name="pretrain",
        seed=1,
        stage=stage,
        train={"made": OrderedStream(rows, Order(1, "made", NUM_SAMPLES), "made")},
        data=stage.data,
        validation={"made": RandomRows(size.vocab_size, size.sequence_length, 8)},
        spec=partial(model_spec, stage, size.vocab_size, 1),
        flops_per_token=1.0,
        attempt=1,
    )
    return build_run(setup, build_host(stage.training))
