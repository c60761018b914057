"""State in blocks of a shard goes on at the number of shards that it was made for, and no other."""

import pytest

from distrain.errors import CheckpointError
from distrain.train.loop import train
from tests.distrain.train.synthetic import make_run, make_stage
from tests.ranks import run_ranks

OPTIMIZER: dict[str, object] = {"name": "adamw_8bit", "min_8bit_size": 256}


def stage_of(strategy, steps):
    return make_stage(
        strategy,
        precision="fp32",
        micro_batch_size=1,
        max_steps=steps,
        optimizer=OPTIMIZER,
        checkpoint={"save_steps": 2},
    )


def go_on(folder):
    train(make_run(folder, stage_of("ddp", 4)))  # whole on every rank, as in one process
    with pytest.raises(CheckpointError, match=r"adamw_8bit for 1 shards; expected 2, as many as"):
        make_run(folder, stage_of("fsdp", 6)).restore()


def over_columns(folder):
    stage = stage_of("fsdp", 2)
    cut = stage.parallelism.model_copy(update={"context_parallel": 2})
    train(make_run(folder, stage.model_copy(update={"parallelism": cut})))


@pytest.mark.axes
def test_ranks_that_cut_rows_into_columns_hold_shards_too(tmp_path):
    run_ranks(tmp_path / "ranks", 2, over_columns, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"adamw_8bit for 2 shards; expected 1, as many as"):
        make_run(tmp_path / "run", stage_of("single", 4)).restore()


@pytest.mark.models
def test_another_number_of_shards_is_refused(tmp_path):
    train(make_run(tmp_path / "run", stage_of("single", 2)))
    run_ranks(tmp_path / "ranks", 2, go_on, tmp_path / "run")
