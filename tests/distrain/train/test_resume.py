"""A run that ended early and went on repeats, bit for bit, the run that never ended."""

import json
from dataclasses import replace

import pytest

from distrain.checkpoint.dcp import read_full
from distrain.fault.wishes import Wish
from distrain.train.loop import train
from tests.distrain.optim.toys import register
from tests.distrain.train.synthetic import ENGINES, SpoiledTask, make_run, make_stage
from tests.ranks import run_ranks

RANKED = [engine for engine in ENGINES if engine != "single"]
FACTORED = {"row", "column", "second"}
EXACT = ("train/global_step", "train/loss", "train/grad_norm", "data/batch_hash", "eval/loss")


def stage_of(engine, optimizer):
    return make_stage(
        optimizer={"name": optimizer},
        precision="fp32",
        max_steps=16,
        dropout=0.1,
        parallelism=ENGINES[engine],
        checkpoint={"save_steps": 5},
        eval={"eval_steps": 4},
    )


def whole_then_cut(folder, engine, optimizer="adamw"):
    """Train once without a break, and once with two: after a wish, and after lost steps."""
    register()
    whole = make_run(folder / "whole", stage_of(engine, optimizer))
    assert train(whole)[1] is Wish.NONE
    close(whole)
    first = make_run(folder / "cut", stage_of(engine, optimizer))
    yield_at(first, folder / "cut", 7)
    close(first)
    (folder / "cut" / "control" / "yield").unlink(missing_ok=True)
    last = make_run(folder / "cut", stage_of(engine, optimizer))
    assert train(last)[1] is Wish.NONE
    close(last)


def yield_at(run, folder, step):
    """Let a yield be wished while step ``step`` runs."""
    own = run.wishes.own
    calls: list[None] = []

    def counted():
        calls.append(None)
        if len(calls) == step + 1 and run.host.rank == 0:
            (folder / "control").mkdir(exist_ok=True)
            (folder / "control" / "yield").touch()
        return own()

    run.wishes.own = counted
    progress, wish = train(run)
    assert wish is Wish.YIELD
    assert progress.step == step


def close(run):
    run.host.barrier()
    if run.monitor is not None:
        run.monitor.close()
    run.engine.close()


def records(folder):
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [{key: json.loads(line).get(key) for key in EXACT} for line in lines]


def one_of_each(engine):
    """Leave the engines that share their way of saving with another one to the whole matrix."""
    marks = [] if engine in ("fsdp", "zero3") else [pytest.mark.seams]
    return pytest.param(engine, marks=marks)


@pytest.mark.parametrize("engine", [*map(one_of_each, RANKED)])
def test_a_yield_in_between_changes_no_bit(engine, tmp_path):
    run_ranks(tmp_path / "ranks", 2, whole_then_cut, tmp_path, engine)
    assert "exp_avg_sq" in assert_same(tmp_path)


@pytest.mark.seams
@pytest.mark.parametrize(
    ("engine", "optimizer", "entries"),
    [
        *((engine, "counted", {"momentum"}) for engine in ENGINES),
        *((engine, "factored", FACTORED) for engine in ("single", "ddp", "fsdp")),
    ],
)
def test_a_yield_in_between_changes_no_bit_under_another_optimizer(
    engine, optimizer, entries, tmp_path
):
    ranks = 1 if engine == "single" else 2
    run_ranks(tmp_path / "ranks", ranks, whole_then_cut, tmp_path, engine, optimizer)
    assert assert_same(tmp_path) == {"model"} | entries


def assert_same(tmp_path):
    """Compare the records and the last checkpoints; returns the kinds of their entries."""
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    tensors = [
        read_full(tmp_path / name / "pretrain" / "checkpoints" / "step_000016", prefix="")
        for name in ("whole", "cut")
    ]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        assert tensor.equal(tensors[1][name]), name
    events = (tmp_path / "cut" / "events.jsonl").read_text()
    assert '"resumed"' in events
    return {name.split("/")[0] for name in tensors[0]}


def poison_one_step(folder):
    """Make the loss of rank 1 not a number at step 3, and train on."""
    run = make_run(folder, make_stage("fsdp", precision="fp32", max_steps=6))
    calls: list[None] = []

    def poisoned(loss):
        calls.append(None)
        # two microbatches a step: the seventh call is in the fourth step
        return loss * float("nan") if run.host.rank == 1 and len(calls) == 7 else loss

    train(replace(run, task=SpoiledTask(run.task, poisoned)))
    close(run)


def test_a_step_whose_loss_is_not_a_number_is_applied_on_no_rank(tmp_path):
    run_ranks(tmp_path / "ranks", 2, poison_one_step, tmp_path)
    lines = (tmp_path / "pretrain" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if "train/loss" in line]
    assert [step["train/applied"] for step in steps] == [True, True, True, False, True, True]
    assert all(step["train/loss"] is not None for step in steps[4:])
    assert '"nonfinite"' in (tmp_path / "events.jsonl").read_text()
