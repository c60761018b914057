import copy
from typing import Any, cast, get_args

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from distrain.config.optimizers import OPTIMIZER_SECTIONS, AdamWConfig
from distrain.optim import OPTIMIZERS, build_optimizer
from distrain.optim.groups import parameter_groups
from tests.ranks import run_ranks

CONFIG = AdamWConfig(learning_rate=0.1, weight_decay=0.5)


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 6), nn.RMSNorm(6), nn.Linear(6, 3))


def train(model, steps, half=None):
    optimizer = build_optimizer(model.named_parameters(), CONFIG).torch
    for step in range(steps):
        ids = (torch.arange(8).view(4, 2) + step) % 7
        if half is not None:
            ids = ids[2 * half : 2 * half + 2]
        model(ids).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def test_matrices_decay_and_norms_and_biases_do_not():
    model = small_model()
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(model.named_parameters(), CONFIG).torch
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.state_dict().items():
        kept = 1 - 0.1 * 0.5 if value.ndim == 2 else 1.0
        torch.testing.assert_close(value, before[name] * kept)


def test_frozen_parameters_are_left_out():
    model = small_model()
    model[1].requires_grad_(False)
    optimizer = build_optimizer(model.named_parameters(), CONFIG).torch
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert known == {id(p) for p in model.parameters() if p.requires_grad}


def test_model_with_nothing_to_train_is_refused():
    model = small_model().requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad=True"):
        build_optimizer(model.named_parameters(), CONFIG)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_adamw_follows_the_plain_one(dtype):
    fused, plain = small_model().to(dtype), small_model().to(dtype)
    assert train(fused, 5).defaults["fused"]
    groups = cast(
        list[dict[str, Any]], parameter_groups(plain.named_parameters(), CONFIG.weight_decay)
    )
    reference = torch.optim.AdamW(
        groups, lr=CONFIG.learning_rate, betas=CONFIG.betas, eps=CONFIG.eps, foreach=False
    )
    assert not reference.defaults["fused"]
    for step in range(5):
        plain((torch.arange(8).view(4, 2) + step) % 7).square().mean().backward()
        reference.step()
        reference.zero_grad()
    for left, right in zip(fused.parameters(), plain.parameters(), strict=True):
        assert left.dtype == dtype
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_every_name_of_the_recipe_has_an_optimizer():
    assert OPTIMIZER_SECTIONS.keys() == OPTIMIZERS.keys()
    for name, section in OPTIMIZER_SECTIONS.items():
        assert get_args(section.model_fields["name"].annotation) == (name,)


def test_sharded_parameters_are_updated_as_whole_ones(tmp_path):
    whole = small_model().double()
    train(whole, 3)
    torch.save(whole.state_dict(), tmp_path / "whole.pt")
    run_ranks(tmp_path, 2, _train_sharded, tmp_path / "whole.pt")


def _train_sharded(expected_path):
    model = small_model().double()
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model, mesh=mesh)
    train(model, 3, half=mesh.get_rank())
    expected = torch.load(expected_path)
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        torch.testing.assert_close(parameter.full_tensor(), expected[name], rtol=1e-9, atol=1e-12)
