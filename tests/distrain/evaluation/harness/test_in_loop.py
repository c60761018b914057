"""Tasks asked while training: the same on all ranks, and without a trace in what is trained."""

import json
import random
from functools import partial

import numpy as np
import pytest
import torch

from distrain.checkpoint.dcp import read_full
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import RecipeError
from distrain.evaluation.harness.in_loop import kept_random_states
from distrain.runs.records import STEP
from distrain.stages.pretrain import model_spec
from tests.distrain.evaluation.harness.made import write_model, write_tasks
from tests.distrain.train.synthetic import ENGINES, finish, make_run, make_stage
from tests.ranks import run_ranks

STEPS, EVERY = 8, 4
ASKED = ("made_choice", "made_rolling")
ACCURACY, BITS = "tasks/made_choice/acc", "tasks/made_rolling/bits_per_byte"


def test_random_states_are_given_back():
    def drawn():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    with kept_random_states(torch.device("cpu")):
        expected = drawn()
    with kept_random_states(torch.device("cpu")):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(3)
        other = drawn()
    assert drawn() == expected
    assert other != expected


def stage_of(engine, folder=None, tasks=ASKED, keep_best=None, **sections):
    harness = {"tasks": list(tasks), "include_path": str(folder), "batch_tokens": 64}
    asked = {} if folder is None else {"harness": harness}
    return make_stage(
        max_steps=STEPS,
        parallelism=ENGINES[engine],
        checkpoint={"save_steps": 3, "keep_best": keep_best},
        eval={"eval_steps": EVERY, **asked},
        **sections,
    )


def spec_of(vocab_size, stage, _, seed, device, precision):
    """Make a model for a tokenizer that knows text, whatever the synthetic samples hold."""
    return model_spec(stage, vocab_size, seed, device, precision)


def run_with(folder, stage, tokenizer, stop=None):
    vocab_size = Tokenizer.load(tokenizer).vocab_size
    spec = partial(spec_of, vocab_size)
    finish(make_run(folder, stage, spec=spec, tokenizer=tokenizer), stop)


def run_all(folder, cases, tokenizer):
    for name, stage, stop in cases:
        run_with(folder / name, stage, tokenizer, stop)


def figures(folder):
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    records = map(json.loads, lines)
    return {
        record[STEP]: {name: value for name, value in record.items() if name.startswith("tasks/")}
        for record in records
        if any(name.startswith("eval/") for name in record)
    }


@pytest.fixture
def made(tmp_path):
    """Task files, and a tokenizer."""
    write_model(tmp_path / "made", has_bos=False)
    return write_tasks(tmp_path / "tasks"), tmp_path / "made" / "tokenizer.json"


@pytest.mark.models
def test_figures_are_those_of_one_rank(tmp_path, made):
    folder, tokenizer = made
    for ranks, engine in ((1, "single"), (2, "fsdp"), (2, "ddp")):
        stage = stage_of(engine, folder)
        run_ranks(tmp_path / f"r-{engine}", ranks, run_with, tmp_path / engine, stage, tokenizer)
    one, *others = (figures(tmp_path / engine) for engine in ("single", "fsdp", "ddp"))
    assert list(one) == [0, 4, 8]
    assert {ACCURACY, f"{ACCURACY}_stderr", BITS} <= set(one[8])
    for found in others:
        assert found.keys() == one.keys()
        for step, expected in one.items():
            assert found[step] == pytest.approx(expected, abs=1e-9)
    # Control: other weights give another figure.
    assert abs(one[8][BITS] - one[0][BITS]) > 1e-3


@pytest.mark.models
def test_what_is_trained_is_the_same_without_and_after_a_stop(tmp_path, made):
    folder, tokenizer = made
    rates = {"model": {"dropout": 0.1}}
    asked, plain = stage_of("fsdp", folder, **rates), stage_of("fsdp", **rates)
    cut = [("cut", asked, 5), ("cut", asked, None)]
    cases = [("asked", asked, None), ("plain", plain, None), *cut]
    run_ranks(tmp_path / "ranks", 2, run_all, tmp_path, cases, tokenizer)
    whole = figures(tmp_path / "asked")
    assert figures(tmp_path / "cut") == whole
    assert not any(figures(tmp_path / "plain").values())
    last = [
        read_full(tmp_path / name / "pretrain" / "checkpoints" / f"step_{STEPS:06}", prefix="")
        for name in ("asked", "plain", "cut")
    ]
    for tensors in last[1:]:
        assert all(tensor.equal(last[0][name]) for name, tensor in tensors.items())


@pytest.mark.models
def test_tasks_that_want_answers_written_are_refused_at_the_start(tmp_path, made):
    folder, tokenizer = made
    stage = stage_of("single", folder, tasks=["made_choice", "made_writing"])
    with pytest.raises(RecipeError, match="made_writing, which asks for generated answers"):
        run_with(tmp_path / "run", stage, tokenizer)
    assert not (tmp_path / "run" / "pretrain" / "checkpoints").exists()


@pytest.mark.models
def test_a_figure_that_no_task_gives_ends_the_stage_before_its_first_step(tmp_path, made):
    folder, tokenizer = made
    watched = {"metric": "tasks/made_choice/f1", "mode": "max"}
    stage = stage_of("single", folder, keep_best=watched)
    with pytest.raises(RecipeError, match=f"do not measure; expected {ACCURACY} or"):
        run_with(tmp_path / "run", stage, tokenizer)
    assert not list((tmp_path / "run" / "pretrain" / "checkpoints").glob("step_*"))
