"""The loss of a step does not depend on how its batch was cut into ranks and microbatches."""

import json

import pytest

from distrain.train.loop import train
from tests.distrain.train.synthetic import make_run, make_stage
from tests.ranks import run_ranks


def train_cases(folder, cases):
    """Run each (name, stage) and leave its losses behind; a body for ranks and for one process."""
    for name, stage in cases:
        run = make_run(folder / name, stage)
        train(run)
        if run.monitor is not None:
            run.monitor.close()
            lines = (folder / name / "pretrain" / "metrics.jsonl").read_text().splitlines()
            records = [json.loads(line) for line in lines]
            figures = {
                "loss": [r["train/loss"] for r in records if "train/loss" in r],
                "norm": [r["train/grad_norm"] for r in records if "train/loss" in r],
                "eval": [r["eval/loss"] for r in records if "eval/loss" in r],
            }
            (folder / f"{name}.json").write_text(json.dumps(figures))


def figures(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def train_cuts(folder, names):
    """Forty steps in float64 for each name: strategy, world size, rows of a microbatch."""
    cases: dict[int, list] = {}
    for name in names:
        strategy, world_size, cut = name.split("-")
        stage = make_stage(strategy, micro_batch_size=int(cut))
        cases.setdefault(int(world_size), []).append((name, stage))
    for world_size, some in cases.items():
        run_ranks(folder / f"ranks-{world_size}", world_size, train_cases, folder, some)
    return folder


QUICK = ("single-1-8", "single-1-1", "ddp-2-1", "fsdp-2-4")
REST = ("single-1-8", "single-1-2", "fsdp-2-1", "ddp-2-4", "ddp-4-2", "fsdp-4-2")


@pytest.fixture(scope="module")
def fp64(tmp_path_factory):
    return train_cuts(tmp_path_factory.mktemp("fp64"), QUICK)


@pytest.mark.seams
def test_losses_do_not_depend_on_any_cut(tmp_path):
    train_cuts(tmp_path, REST)
    for name in REST:
        assert_equal_to_one_process(tmp_path, name)


@pytest.mark.parametrize("name", QUICK[1:])
def test_losses_do_not_depend_on_the_cut(fp64, name):
    assert_equal_to_one_process(fp64, name)


def assert_equal_to_one_process(folder, name):
    reference, found = figures(folder, "single-1-8"), figures(folder, name)
    assert len(found["loss"]) == 40
    for key in ("loss", "norm", "eval"):
        assert found[key] == pytest.approx(reference[key], rel=0, abs=1e-9), key


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    """Twenty steps in float32 under every engine."""
    folder = tmp_path_factory.mktemp("fp32")
    engines = {"single": {}, "fsdp": {}, **{f"zero{n}": {"zero_stage": n} for n in (1, 2, 3)}}
    cases = {
        name: make_stage(
            precision="fp32",
            max_steps=20,
            parallelism={"strategy": "deepspeed" if settings else name, **settings},
        )
        for name, settings in engines.items()
    }
    single = [("single", cases.pop("single"))]
    run_ranks(folder / "ranks-1", 1, train_cases, folder, single)
    run_ranks(folder / "ranks-2", 2, train_cases, folder, list(cases.items()))
    return folder


@pytest.mark.parametrize("name", ["fsdp", "zero1", "zero2", "zero3"])
def test_losses_do_not_depend_on_the_engine(fp32, name):
    reference, found = figures(fp32, "single"), figures(fp32, name)
    assert len(found["loss"]) == 20
    assert found["loss"] == pytest.approx(reference["loss"], rel=0, abs=1e-5)
    assert found["norm"] == pytest.approx(reference["norm"], rel=1e-4)


def test_the_run_learns(fp64):
    losses = figures(fp64, "single-1-8")["loss"]
    assert losses[-1] < losses[0] - 0.5


def test_clipping_was_at_work(fp64):
    assert max(figures(fp64, "single-1-8")["norm"]) > 0.5
