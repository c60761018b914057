"""Tensor and sequence parallelism, with FSDP2 over the other ranks, against one process."""

from dataclasses import replace
from typing import Any

import pytest

import distrain.parallel.engines.fsdp as engine
from distrain.parallel.tensor import parameters
from distrain.parallel.tensor.peers import TensorPeers
from tests.distrain.axes.families import EVERY_FAMILY, OURS
from tests.distrain.axes.harness import (
    Case,
    assert_as_alone,
    differences,
    digest_of,
    open_run,
    reference,
    run_over,
    train_case,
)
from tests.ranks import run_ranks

ODD_AND_TIED: dict[str, Any] = {"model": {"tie_word_embeddings": True}, "vocab_size": 121}
STREAM = pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "cut"])


def case(family, is_cut, shard=2, **more):
    axes = {"tensor_parallel": 2, "sequence_parallel": is_cut, "data_parallel_shard": shard}
    return Case(family, axes, **more)


def test_a_tied_model_of_an_odd_vocabulary_is_as_in_one_process(tmp_path):
    cases = {"tp": case(OURS, True, shard=1, steps=5, **ODD_AND_TIED)}
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
@STREAM
@pytest.mark.parametrize("number", range(4))  # few at a time: ranks are given three minutes
def test_every_family_is_as_in_one_process(tmp_path, is_cut, number):
    cases = {name: case(name, is_cut) for name in EVERY_FAMILY[number::4]}
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
@STREAM
def test_tied_tables_of_an_odd_vocabulary_are_too(tmp_path, is_cut):
    families = (OURS, "gpt2", "gemma2", "phi3")
    cases = {name: case(name, is_cut, **ODD_AND_TIED) for name in families}
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
def test_blocks_computed_again_and_microbatches_added_up_are_too(tmp_path):
    again = {"training": {"gradient_checkpointing": "full"}}
    cases = {
        name: case(name, True, micro_batch_size=1, steps=6, sections=again)
        for name in (OURS, "qwen3_moe")
    }
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
def test_stages_of_a_pipeline_are_cut_too(tmp_path):
    over = {"pipeline_parallel": 2, "tensor_parallel": 2, "data_parallel_shard": 1}
    cases = {
        f"{name}-{is_cut}": Case(
            name, {**over, "sequence_parallel": is_cut}, steps=6, **ODD_AND_TIED
        )
        for name in (OURS, "gpt2", "gemma2")
        for is_cut in (False, True)
    }
    again = {"training": {"gradient_checkpointing": "full"}}
    cases["again"] = Case(OURS, over, steps=6, sections=again)
    assert_as_alone(cases, run_over(tmp_path, cases))


def count_norms_twice():
    engine._counts_here = lambda parameter, ranks: True


def leave_norms_to_each_rank():
    parameters.read_summand = parameters.read_whole_gradient


def keep_gradients_of_the_head_apart():
    TensorPeers.copied = lambda self, whole: whole.view_as(whole)  # type: ignore[method-assign]


@pytest.mark.axes
@pytest.mark.parametrize(
    ("spoil", "largest_loss"),
    [
        (count_norms_twice, 1e-5),
        (leave_norms_to_each_rank, 1e-4),
        (keep_gradients_of_the_head_apart, 1e-3),
    ],
)
def test_a_sum_that_is_wrong_shows(tmp_path, spoil, largest_loss):
    cases = {"spoiled": case(OURS, True, steps=6, **ODD_AND_TIED)}
    losses, norms, _ = differences(
        run_over(tmp_path, cases, spoil)["spoiled"], reference(cases["spoiled"])
    )
    assert norms > 1e-3
    assert losses > largest_loss


def train_and_digest(folder, cases):
    for name, each in cases.items():
        train_case(folder / name, each)
    digest(folder, cases, "cut")


def digest(folder, cases, layout):
    """Open what was saved, and write down its digest."""
    for name, each in cases.items():
        run = open_run(folder / name, each)
        initial = digest_of(run)
        assert run.restore().step == each.steps
        found = digest_of(run)
        assert not set(found) & set(initial)
        if run.host.rank == 0:
            (folder / f"{name}-{layout}").write_text(" ".join(found))


@pytest.mark.axes
def test_a_state_is_the_same_when_it_is_loaded_in_one_process(tmp_path):
    families = (OURS, "gpt2", "phi3", "gemma2", "mixtral", "qwen3_moe")
    cases = {name: case(name, True, steps=4, **ODD_AND_TIED) for name in families}
    alone = {name: each.alone for name, each in cases.items()}
    axes = {"pipeline_parallel": 2, "tensor_parallel": 2, "data_parallel_shard": 1}
    cases["stages"] = replace(cases["gpt2"], parallelism=axes)
    alone["stages"] = alone["gpt2"]
    run_ranks(tmp_path / "ranks", 4, train_and_digest, tmp_path, cases)
    run_ranks(tmp_path / "rank", 1, digest, tmp_path, alone, "alone")
    for name in cases:
        saved, loaded = ((tmp_path / f"{name}-{layout}").read_text() for layout in ("cut", "alone"))
        assert loaded == saved
        assert len(set(loaded.split())) == 2
