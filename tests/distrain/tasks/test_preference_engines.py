"""Preferences trained, validated, cut and resumed under every engine, with the same figures."""

import numpy as np
import pytest

from distrain.checkpoint.dcp import read_full
from distrain.data.samples.examples import ExampleStream
from distrain.data.samples.order import Order
from distrain.fault.wishes import Wish
from distrain.train.loop import train
from tests.distrain.tasks.by_engine import records, runs_by_engine
from tests.distrain.tasks.preferences import dataset_of, made_pairs
from tests.distrain.train.synthetic import ENGINES, make_run, make_stage
from tests.distrain.train.test_resume import close, yield_at
from tests.ranks import run_ranks

STEPS = 6
EXACT = ("train/global_step", "train/grad_norm", "data/batch_hash", "train/loss", "train/reward_",
         "train/logp_", "eval/")  # fmt: skip


def pairs_of(count, seed, shift=0):
    reference = np.random.default_rng(seed).uniform(-40, -5, (count, 2))
    return dataset_of(made_pairs(count, seed), np.roll(reference, shift, 0))


def is_zero(engine):
    return engine.startswith("zero")  # which has no fp64


def run_of(folder, engine, shift=0):
    stage = make_stage(
        precision="fp32" if is_zero(engine) else "fp64",
        micro_batch_size=2,
        max_steps=STEPS,
        training={"task": "preference"},
        parallelism=ENGINES[engine],
        checkpoint={"save_steps": 2},
        eval={"eval_steps": 3},
    )
    made = pairs_of(50, 0, shift)
    streams = {"made": ExampleStream(made, Order(5, "made", len(made)))}
    held_out = {"code": pairs_of(5, 1), "web": pairs_of(8, 2)}
    return make_run(folder, stage, held_out=held_out, train=streams)


def whole_then_cut(folder, engine):
    """Train once without a break, once with a yield and lost steps in between."""
    whole = run_of(folder / "whole", engine)
    assert train(whole)[1] is Wish.NONE
    close(whole)
    first = run_of(folder / "cut", engine)
    yield_at(first, folder / "cut", 3)
    close(first)
    (folder / "cut" / "control" / "yield").unlink(missing_ok=True)
    last = run_of(folder / "cut", engine)
    assert train(last)[1] is Wish.NONE
    close(last)


def moved(folder):
    """With what the reference says of another pair."""
    run = run_of(folder / "moved", "single", shift=1)
    train(run)
    close(run)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of an engine's two runs."""
    return runs_by_engine(tmp_path_factory.mktemp, whole_then_cut)


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(engine, marks=() if engine == "fsdp" else pytest.mark.seams)
        for engine in ENGINES
    ],
)
def test_it_resumes_bit_by_bit_and_equals_one_process(trained, engine):
    folder = trained(engine)
    whole = records(folder / "whole", EXACT)
    assert records(folder / "cut", EXACT) == whole
    assert len([record for record in whole if "train/loss" in record]) == STEPS
    scores = [record for record in whole if "eval/loss" in record]
    assert {"eval/reward_accuracy/code", "eval/reward_margin/web"} <= scores[0].keys()
    assert scores[-1]["eval/loss"] < scores[0]["eval/loss"]
    states = [
        read_full(folder / name / "pretrain" / "checkpoints" / f"step_{STEPS:06}", prefix="")
        for name in ("whole", "cut")
    ]
    assert all(tensor.equal(states[1][name]) for name, tensor in states[0].items())
    rel, limit = (2e-4, 1e-5) if is_zero(engine) else (1e-9, 1e-9)
    for found, expected in zip(whole, records(trained("single") / "whole", EXACT), strict=True):
        assert found == pytest.approx(expected, rel=rel, abs=limit)


def test_the_figures_tell_which_pair_the_reference_spoke_of(trained, tmp_path):
    run_ranks(tmp_path / "ranks", 1, moved, tmp_path)
    own, other = (
        records(folder, EXACT) for folder in (trained("single") / "whole", tmp_path / "moved")
    )
    first = [next(r for r in found if "train/loss" in r) for found in (own, other)]
    assert first[0]["data/batch_hash"] == first[1]["data/batch_hash"]
    assert abs(first[0]["train/loss"] - first[1]["train/loss"]) > 1e-3
