"""Low-rank adapters are cut with their layers."""

import copy

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate

from distrain.config.lora import LoraConfig
from distrain.config.models.tensor_plan import plan_of
from distrain.errors import RecipeError
from distrain.finetune.lora import inject_lora
from distrain.parallel.tensor import cut_tensors
from tests.distrain.axes.families import OURS
from tests.distrain.parallel.tensor.cut_models import REACH, differing, losses_of, whole_model
from tests.ranks import run_ranks


def adapted(family, **more):
    """A model whose adapters have been trained: those that begin as zeros would hide much."""
    model = whole_model(family)
    dtype = next(model.parameters()).dtype
    inject_lora(model, LoraConfig(r=6, alpha=9, dropout=0.0, **more), 3)
    dice = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=dice))
    return model.to(dtype).train()


def compare(families, is_cut):
    mesh = init_device_mesh("cpu", (2,))
    for family in families:
        whole = adapted(family)
        model = copy.deepcopy(whole)
        cut_tensors(model, mesh, plan_of(model.model_config, {}), sequence_parallel=is_cut)
        expected, found = losses_of(whole), losses_of(model)
        for losses in (expected, found):
            losses.square().sum().backward()
        reach = REACH.get(family, 1e-9)
        torch.testing.assert_close(found, expected, rtol=reach, atol=reach)
        wrong = differing(model, whole, reach)
        assert not wrong, (family, is_cut, wrong)
        named = list(model.named_parameters())
        adapters = {n: isinstance(p.placements[0], Replicate) for n, p in named if "lora_" in n}
        # Of each adapter one matrix is cut, and the other is whole.
        assert 2 * sum(adapters.values()) == len(adapters) > 0


def refuse_lengths():
    model, mesh = adapted(OURS, use_dora=True), init_device_mesh("cpu", (2,))
    plan = plan_of(model.model_config, {})
    with pytest.raises(RecipeError, match=r"lora\.use_dora"):
        cut_tensors(model, mesh, plan, sequence_parallel=False)


def compare_and_refuse():
    for is_cut in (False, True):
        compare([OURS], is_cut)
    refuse_lengths()


@pytest.mark.axes
def test_adapters_have_the_gradients_of_the_whole_model_and_lengths_of_rows_are_refused(tmp_path):
    run_ranks(tmp_path, 2, compare_and_refuse)


@pytest.mark.axes
@pytest.mark.parametrize("is_cut", [False, True])
def test_adapters_of_other_families_too(tmp_path, is_cut):
    run_ranks(tmp_path, 2, compare, ["gpt2", "phi3", "olmo2", "mixtral", "gpt_neox"], is_cut)
