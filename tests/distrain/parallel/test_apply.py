import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distrain.config.layout import Layout
from distrain.errors import RecipeError
from distrain.parallel.collectives import HostGroup
from distrain.parallel.engines.deepspeed import build_deepspeed
from distrain.parallel.model_spec import build_on_meta, materialize
from distrain.parallel.ranks import Ranks
from tests.distrain.parallel.tiny_model import (
    Case,
    engine_of,
    evaluate,
    largest_difference,
    spec_of,
    train,
)
from tests.ranks import run_ranks


def layout(strategy, replicate=1, shard=1):
    return Layout(strategy=strategy, zero_stage=3, dp_replicate=replicate, dp_shard=shard)


def test_a_layout_for_other_processes_is_refused_with_both_numbers():
    with pytest.raises(RecipeError) as caught:
        Ranks(layout("fsdp", 2, 4), HostGroup())

    assert "2 * data_parallel_shard 4 = 8 ranks" in str(caught.value)
    assert "expected 1, the number of processes" in str(caught.value)


def test_deepspeed_refuses_float64():
    with pytest.raises(RecipeError, match=r"fp64 with .* deepspeed"):
        build_deepspeed(Ranks(layout("deepspeed"), HostGroup()), spec_of(Case(precision="fp64")))


def test_deepspeed_that_is_not_installed_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(RecipeError, match=r"Install distrain\[deepspeed\]"):
        build_deepspeed(Ranks(layout("deepspeed"), HostGroup()), spec_of(Case()))


def train_without_a_group() -> None:
    expected = train(engine_of(Case()), range(3), 4)
    dist.destroy_process_group()
    assert train(engine_of(Case()), range(3), 4) == expected
    assert not dist.is_initialized()
    fsdp = train(engine_of(Case("fsdp")), range(3), 4)
    assert dist.is_initialized()
    assert largest_difference(fsdp, expected) < 1e-5


@pytest.mark.seams
def test_one_process_started_without_torchrun_may_use_any_engine(tmp_path: Path):
    run_ranks(tmp_path, 1, train_without_a_group)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_made_on_the_meta_device_is_the_one_made_at_once(tied: bool):
    spec = spec_of(Case(tied=tied))
    module = build_on_meta(spec)
    assert all(parameter.is_meta for parameter in module.parameters())
    assert torch.equal(module.get_buffer("slope"), torch.linspace(0.5, 1.5, 6))

    materialize(module, spec)

    whole = engine_of(Case(tied=tied))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name
    assert (module.get_parameter("head.weight") is module.get_parameter("embedding.weight")) == tied


def test_evaluating_leaves_nothing_behind():
    engine = engine_of(Case())
    before = train(engine, range(2), 4)
    evaluate(engine)
    twin = engine_of(Case())

    assert train(twin, range(2), 4) == before
    assert train(twin, range(2, 4), 4) == train(engine, range(2, 4), 4)
