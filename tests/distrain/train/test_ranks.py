"""Ranks that read the same batch change nothing: 2 parts x 2 copies train as 2 ranks do."""

import json
import math
from dataclasses import replace
from unittest.mock import patch

import pytest

from distrain.checkpoint.commit import read_commit
from distrain.checkpoint.dcp import read_full
from distrain.config.layout import Axis, Layout, resolve_layout
from distrain.config.training import ParallelismConfig
from distrain.train import build
from distrain.train.agreed import agree
from distrain.train.loop import train, train_step
from tests.distrain.train.synthetic import SpoiledTask, make_run, make_stage
from tests.ranks import run_ranks

STEPS = 6
MUTE = (Axis("mute", 2),)
EQUAL = (
    "train/loss", "train/grad_norm", "data/num_targets", "data/batch_hash", "eval/loss",
)  # fmt: skip
PARALLELISM: dict[str, dict[str, object]] = {
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "hsdp": {"strategy": "fsdp", "data_parallel_replicate": 2},
}


def make(folder, engine, side=None):
    """Make a run with two parts of the batch; with a side, two copies of each."""

    def two_copies(config: ParallelismConfig, world_size: int) -> Layout:
        layout = resolve_layout(config, world_size // 2)
        return replace(layout, inner=MUTE) if side == "inner" else replace(layout, outer=MUTE)

    arrange = resolve_layout if side is None else two_copies
    stage = make_stage(
        precision="fp32",
        max_steps=STEPS,
        dropout=0.1,
        parallelism=PARALLELISM[engine],
        eval={"eval_steps": 3},
    )
    with patch.object(build, "resolve_layout", arrange):
        return make_run(folder, stage)


def train_once(folder, engine, side=None, over_world=False):
    run = make(folder, engine, side)
    if over_world:
        every = list(range(run.host.world_size))
        run.engine.ranks._counted = {"rows": every, "positions": every}
    train(run)
    run.host.barrier()
    if run.monitor is not None:
        run.monitor.close()


def records(folder):
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [{key: json.loads(line).get(key) for key in EQUAL} for line in lines]


def assert_same_run(folder, expected):
    assert records(folder) == records(expected)
    paths = [root / "pretrain" / "checkpoints" / "step_000006" for root in (folder, expected)]
    # The digest is summed over what the ranks write: no copy has written.
    assert read_commit(paths[0]).content == read_commit(paths[1]).content
    found, tensors = (read_full(path, prefix="") for path in paths)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.equal(found[name]), name


@pytest.mark.parametrize(
    ("engine", "side"),
    [
        ("fsdp", "inner"),
        *(
            pytest.param(engine, side, marks=pytest.mark.seams)
            for engine, side in (
                ("fsdp", "outer"), ("ddp", "inner"), ("ddp", "outer"), ("hsdp", "inner"),
            )
        ),
    ],
)  # fmt: skip
def test_copies_along_another_axis_change_no_bit(tmp_path, engine, side):
    run_ranks(tmp_path / "ranks-2", 2, train_once, tmp_path / "two", engine)
    run_ranks(tmp_path / "ranks-4", 4, train_once, tmp_path / "four", engine, side)
    assert_same_run(tmp_path / "four", tmp_path / "two")


@pytest.mark.seams
def test_sums_over_the_world_would_count_copies_twice(tmp_path):
    run_ranks(tmp_path / "ranks-2", 2, train_once, tmp_path / "two", "fsdp")
    run_ranks(tmp_path / "ranks-4", 4, train_once, tmp_path / "four", "fsdp", "inner", True)
    expected, found = records(tmp_path / "two"), records(tmp_path / "four")
    steps = [number for number, record in enumerate(expected) if record["train/loss"] is not None]
    first = steps[0]
    assert found[first]["data/num_targets"] == 2 * expected[first]["data/num_targets"]
    assert found[first]["train/grad_norm"] == pytest.approx(
        expected[first]["train/grad_norm"] / 2, rel=1e-4
    )
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "four", tmp_path / "two")


def spoil_one_copy(folder):
    """Make a step with a gradient that is NaN on the last rank alone, whose loss is not."""
    run = make(folder, "ddp", "inner")

    def spoil(loss):
        loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    before = {name: [b.tensor.clone() for b in e.boxes] for name, e in run.engine.state().items()}
    batch = run.loader.batch_at(0)
    bad = replace(run, task=SpoiledTask(run.task, spoil)) if run.host.rank == 3 else run
    result = train_step(bad, batch, agree(run, batch), 0)
    # Told and done by those whose own gradients are sound, too.
    assert run.host.gather((result.applied, math.isnan(result.grad_norm))) == [(False, True)] * 4
    assert math.isfinite(result.loss)
    for name, entry in run.engine.state().items():
        for box, tensor in zip(entry.boxes, before[name], strict=True):
            assert box.tensor.equal(tensor), name
    (folder / f"seen-{run.host.rank}").touch()


def test_a_gradient_that_is_nan_on_one_copy_alone_is_applied_on_no_rank(tmp_path):
    (tmp_path / "run").mkdir()
    run_ranks(tmp_path / "ranks", 4, spoil_one_copy, tmp_path / "run")
    assert len(list((tmp_path / "run").glob("seen-*"))) == 4
