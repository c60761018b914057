"""Experts are balanced over the microbatch of all ranks: however many there are, the same run."""

import json
from dataclasses import replace

import numpy as np
import pytest

from distrain.checkpoint.dcp import read_full
from distrain.config.tasks import IGNORE_INDEX
from distrain.data.samples.datasets import gather
from distrain.data.samples.examples import example_dataset
from distrain.data.samples.loader import Microbatch
from distrain.data.samples.rows import Rows
from distrain.fault.wishes import Wish
from distrain.train.balancing import Balancing, counted_tokens
from distrain.train.loop import train
from tests.distrain.data.samples.made_examples import made_examples
from tests.distrain.models.transformers.families import section
from tests.distrain.tasks import pairwise
from tests.distrain.train.synthetic import (
    ENGINES,
    GLOBAL_BATCH_SIZE,
    SyntheticDataset,
    finish,
    make_run,
    make_stage,
)
from tests.distrain.train.test_resume import close
from tests.ranks import run_ranks

STEPS, CUT = 8, 5
FIGURES = ("train/loss", "train/balancing_loss", "train/grad_norm", "data/batch_hash", "eval/loss")
REPRESENTATIVE = "fsdp"


def stage_of(engine, ranks, family="mixtral", training=None, **more):
    """One microbatch a step, on all ranks together."""
    stage = make_stage(
        precision="fp32",
        micro_batch_size=GLOBAL_BATCH_SIZE // ranks,
        max_steps=STEPS,
        parallelism=ENGINES[engine],
        checkpoint={"save_steps": 3},
        eval={"eval_steps": 4},
        training=training or {},
    )
    asked = {"output_router_logits": True, "router_aux_loss_coef": 0.5, **more}
    return stage.model_copy(update={"model": section(family, initializer_range=0.1, **asked)})


def train_whole(folder, stage):
    assert finish(make_run(folder, stage)) is Wish.NONE


def train_whole_and_cut(folder, stage):
    train_whole(folder / "whole", stage)
    assert finish(make_run(folder / "cut", stage), CUT) is Wish.YIELD
    train_whole(folder / "cut", stage)


def train_with_means_of_ranks(folder, stage):
    """As it must not be: each rank balances its own part."""
    run = make_run(folder, stage)
    assert run.balancing is not None
    finish(replace(run, balancing=OwnPart(run.balancing.rule, run.engine.ranks)))


class OwnPart(Balancing):
    def _over_ranks(self, part, weight):
        return part.counts, part.num_tokens, weight


def column(folder, name):
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [record[name] for record in map(json.loads, lines) if name in record]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    train_whole(folder, stage_of("single", 1))
    return folder


def distance(folder, alone, name):
    pairs = zip(column(folder, name), column(alone, name), strict=True)
    return max(abs(found - expected) for found, expected in pairs)


def check_same_run(folder, alone):
    assert distance(folder, alone, "train/loss") < 1e-5
    assert distance(folder, alone, "train/balancing_loss") < 1e-5
    assert distance(folder, alone, "train/grad_norm") < 1e-4


def train_both_ways(folder, stage):
    train_whole(folder / "whole", stage)
    train_with_means_of_ranks(folder / "means", stage)


def test_two_ranks_train_as_one_with_twice_the_rows(tmp_path, alone):
    stage = stage_of(REPRESENTATIVE, 2)
    run_ranks(tmp_path / "ranks", 2, train_both_ways, tmp_path, stage)
    check_same_run(tmp_path / "whole", alone)
    # Control: the means of what each rank finds of its own part.
    assert distance(tmp_path / "means", alone, "train/balancing_loss") > 1e-3
    assert distance(tmp_path / "means", alone, "train/loss") > 1e-4


@pytest.mark.models
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "single"])
def test_every_engine_trains_as_one_rank_and_resumes_bitwise(engine, tmp_path, alone):
    run_ranks(tmp_path / "ranks", 2, train_whole_and_cut, tmp_path, stage_of(engine, 2))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    check_same_run(whole, alone)
    assert all(column(whole, name) == column(cut, name) for name in FIGURES)
    found, expected = (read_full(last_of(folder), prefix="") for folder in (cut, whole))
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())


def last_of(folder):
    return folder / "pretrain" / "checkpoints" / f"step_{STEPS:06d}"


@pytest.mark.models
def test_four_ranks_train_as_one(tmp_path, alone):
    run_ranks(tmp_path / "ranks", 4, train_whole, tmp_path / "run", stage_of("fsdp", 4))
    check_same_run(tmp_path / "run", alone)


def rows_of_two(targets):
    """Two rows of eight: documents of five and three tokens, and one of eight."""
    ids = np.array([list(row) for row in targets.split()]) == "x"
    rows = np.where(ids, 7, IGNORE_INDEX)
    positions = np.array([[*range(5), *range(3)], [*range(8)]], np.int32)
    return Rows(np.ones_like(rows), rows, positions, np.array([0, 5, 8, 16], np.int32))


@pytest.mark.parametrize(
    ("targets", "whole", "needed"),
    [
        ("xxxx.xxx xxxxxxxx", "all", "11110111 11111111"),
        ("..x..... x.x.....", "11111000 11111111", "11100000 11100000"),
        (".....x.. ........", "00000111 00000000", "00000100 00000000"),
    ],
)
def test_padding_does_not_count_nor_what_a_shorter_pass_would_leave_out(targets, whole, needed):
    rows = rows_of_two(targets)
    part = Microbatch.from_rows(rows, 0, 2)
    assert shown(counted_tokens(part)) == whole
    cut = replace(part, places=part.target_ids.flatten().ne(IGNORE_INDEX).nonzero().flatten())
    assert shown(counted_tokens(cut)) == needed


def shown(mask):
    if mask is None:
        return "all"
    first, second = ("".join(str(int(flag)) for flag in row) for row in mask.view(2, 8))
    return f"{first} {second}"


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_the_same_tokens_count_however_a_microbatch_of_examples_is_cut(packing):
    dataset = example_dataset(made_examples(60, longest=25), 64, pad_id=0, packing=packing)
    rows = gather(dataset, np.arange(6))
    counts = [
        sum(int(mask.sum()) for mask in map(counted_tokens, cut) if mask is not None)
        for cut in (
            [Microbatch.from_rows(rows, 0, 6)],
            [Microbatch.from_rows(rows, n, n + 2) for n in (0, 2, 4)],
        )
    ]
    assert counts[0] == counts[1] > 0


def test_what_balances_nothing_is_the_same_run(tmp_path, alone):
    """A coefficient of 0, and scores that nobody asked for."""
    for name, more in (
        ("off", {"output_router_logits": False}),
        ("zero", {"router_aux_loss_coef": 0.0}),
    ):
        train_whole(tmp_path / name, stage_of("single", 1, **more))
        assert column(tmp_path / name, "train/balancing_loss") == []
    off, zero = (read_full(last_of(tmp_path / name), prefix="") for name in ("off", "zero"))
    assert all(tensor.equal(zero[name]) for name, tensor in off.items())
    assert distance(tmp_path / "off", alone, "train/loss") > 1e-4  # control: balancing does act


def test_blocks_made_again_are_the_same_run(tmp_path, alone):
    stage = stage_of("single", 1, training={"gradient_checkpointing": "full"})
    train_whole(tmp_path, stage)
    assert all(column(tmp_path, name) == column(alone, name) for name in FIGURES)


def test_a_task_of_two_forward_passes_is_balanced_over_both(tmp_path):
    with pairwise.registered():
        stage = stage_of("single", 2, training={"task": pairwise.NAME})
        run = make_run(tmp_path, stage, held_out={"made": SyntheticDataset(5)})
        train(run)
        close(run)
    found = column(tmp_path, "train/balancing_loss")
    assert len(found) == STEPS
    assert all(2 < loss < 4 for loss in found)  # two experts a token, of four
    assert len(column(tmp_path, "train/agreement")) == STEPS
    assert not any("balancing" in key for key in last_validation(tmp_path))


def last_validation(folder):
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "eval/preference" in record][-1]
