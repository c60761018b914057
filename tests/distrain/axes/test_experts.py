"""Experts over ranks, tokens on their way: the same losses, norms and content as in one process."""

from dataclasses import replace
from math import prod

import pytest
from torch.distributed.fsdp import FSDPModule

from distrain.parallel.experts import routes
from tests.distrain.axes.families import EXPERTS, OTHER_MIXTURES
from tests.distrain.axes.harness import (
    BATCH,
    Case,
    assert_as_alone,
    differences,
    reference,
    run_over,
    train_case,
)
from tests.ranks import run_ranks

BALANCED = {"output_router_logits": True, "router_aux_loss_coef": 0.1}
LAYOUTS = {
    "ep 2": {"expert_parallel": 2},
    "ep 4": {"expert_parallel": 4},
    "ep 2, fsdp 2": {"expert_parallel": 2, "data_parallel_shard": 2},
    "ep 2, replicas 2": {"expert_parallel": 2, "data_parallel_replicate": 2},
    "ep 2, cp 2": {"expert_parallel": 2, "context_parallel": 2},
    "ep 2, tp 2": {"expert_parallel": 2, "tensor_parallel": 2},
}
STAGES = {"expert_parallel": 2, "pipeline_parallel": 2}
"""Its own: a pipeline takes several microbatches, and no balancing loss."""
OF_ROWS = ("expert_parallel", "data_parallel_shard", "data_parallel_replicate")


def rows_of(parallelism):
    """How many rows of a batch each rank reads."""
    return BATCH // prod(parallelism.get(degree, 1) for degree in OF_ROWS)


def plain_and_balanced(parallelism):
    """Two microbatches a rank; and one, as the balancing loss is that of a microbatch."""
    rows = rows_of(parallelism)
    plain = {name: Case(name, parallelism, micro_batch_size=rows // 2) for name in EXPERTS}
    balanced = {
        f"{name} balanced": Case(name, parallelism, micro_batch_size=rows, model=BALANCED)
        for name in EXPERTS
    }
    return {**plain, **balanced}


def return_in_another_order():
    """Forget whose pairs they are that come back."""

    def unsorted(self, rows):
        return routes._exchange(rows, self.arriving, self.sent, self.group)

    routes.Routes.to_tokens = unsorted  # type: ignore[method-assign]


def average_over_fewer_ranks():
    """Divide gradients of experts as FSDP2 does by itself."""
    FSDPModule.set_gradient_divide_factor = lambda self, factor: None  # type: ignore[method-assign]


def balance_alone():
    """Take the counts of this rank for those of all."""
    from distrain.train.balancing import Balancing

    honest = Balancing._over_ranks

    def own(self, part, weight):
        _, _, whole_weight = honest(self, part, weight)
        return part.counts, part.num_tokens, whole_weight

    Balancing._over_ranks = own  # type: ignore[method-assign]


def test_experts_that_are_cut_learn_as_whole_ones(tmp_path):
    whole = Case("qwen3_moe", {"data_parallel_shard": 2}, steps=2, model=BALANCED)
    cut = replace(whole, parallelism=LAYOUTS["ep 2"])
    # On the same ranks, which start once: that whole ones are right is told elsewhere.
    found = run_over(tmp_path, {"cut": cut, "whole": whole})
    losses, norms, evals = differences(found["cut"], found["whole"])
    assert max(losses, norms, evals) < 1e-5, (losses, norms, evals)


@pytest.mark.axes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_as_one_process_with_and_without_balancing(layout, tmp_path):
    cases = plain_and_balanced(LAYOUTS[layout])
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
def test_other_mixtures_are_as_in_one_process(tmp_path):
    cases = {name: Case(name, LAYOUTS["ep 2"], steps=8) for name in OTHER_MIXTURES}
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
@pytest.mark.parametrize(
    ("spoil", "layout", "model"),
    [
        (return_in_another_order, "ep 2", {}),
        (average_over_fewer_ranks, "ep 2, fsdp 2", {}),
        (balance_alone, "ep 2", BALANCED),
    ],
    ids=["order", "average", "balancing"],
)
def test_what_is_spoiled_shows(spoil, layout, model, tmp_path):
    rows = rows_of(LAYOUTS[layout])
    case = Case("qwen3_moe", LAYOUTS[layout], steps=6, micro_batch_size=rows, model=model)
    found = run_over(tmp_path, {"spoiled": case}, spoil)["spoiled"]
    losses, norms, _ = differences(found, reference(case))
    assert losses > 1e-4, (losses, norms)


@pytest.mark.axes
@pytest.mark.parametrize("layout", ["ep 2, fsdp 2", "ep 2, cp 2", "ep 2, tp 2", "ep 2, pp 2"])
def test_content_is_the_same_on_one_rank_and_with_whole_experts(layout, tmp_path):
    case = Case("qwen3_moe", LAYOUTS.get(layout, STAGES), steps=4, micro_batch_size=1)
    saved = run_over(tmp_path, {"run": case})["run"]
    for other in (replace(case, parallelism={"data_parallel_shard": 2}), case.alone, case):
        # Nothing is left to do but to read the checkpoint.
        loaded = run_over(tmp_path, {"run": other})["run"]
        assert (loaded.product, loaded.rest) == (saved.product, saved.rest), other.parallelism


@pytest.mark.axes
def test_experts_may_lie_on_some_stages_of_a_pipeline_only(tmp_path):
    dense = {"mlp_only_layers": [0, 1]}
    cases = {
        "mixtral": Case("mixtral", STAGES, micro_batch_size=1),
        "dense first": Case("qwen3_moe", STAGES, micro_batch_size=1, model=dense),
    }
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
def test_blocks_are_compiled_around_experts(tmp_path):
    plain = Case("qwen3_moe", LAYOUTS["ep 2"], steps=3)
    compiled = replace(plain, sections={"training": {"compile": True}})
    found = run_over(tmp_path, {"plain": plain, "compiled": compiled})
    assert max(differences(found["compiled"], found["plain"])) < 1e-5


def cut_short(folder, case):
    train_case(folder, case, stop=3)


@pytest.mark.axes
def test_a_run_that_was_interrupted_is_bitwise_its_twin(tmp_path):
    case = Case("mixtral", LAYOUTS["ep 2"], steps=8, model=BALANCED)
    twin = run_over(tmp_path / "twin", {"run": case})["run"]
    folder = tmp_path / "cut"
    run_ranks(tmp_path / "ranks", case.world_size, cut_short, folder / "run", case)
    assert run_over(folder, {"run": case})["run"] == twin
