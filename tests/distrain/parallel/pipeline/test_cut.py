"""Stages that run one after the other compute what the whole model computes, to the bit."""

import pytest
import torch

from distrain.config.training import LossConfig
from distrain.errors import RecipeError
from distrain.models.init import initialize
from distrain.parallel.pipeline.anatomy import observe
from distrain.parallel.pipeline.cut import cut_pipeline, require_whole_logits
from tests.distrain.models.transformers.families import FAMILIES, section
from tests.distrain.parallel.pipeline.stages import (
    OWN,
    config_of,
    loss_of,
    on_meta,
    parts_of,
    stage_of,
    whole_model,
)

QUICK = (OWN, "gpt2", "gemma2")  # learned positions; layers of two kinds and a scaled embedding
every_family = pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.axes)
        for name in (OWN, *FAMILIES)
    ],
)


@every_family
def test_stages_in_a_row_are_the_whole_model(family):
    config, (part,) = config_of(family), parts_of(1)
    whole = whole_model(config)
    expected = loss_of(whole, part)
    expected.sum().backward()

    first, _ = stage_of(config, 0, 2)
    last, inbox = stage_of(config, 1, 2)
    hidden = first(part.ids, documents=part.documents)
    inbox.hidden = hidden.detach().requires_grad_()
    found = loss_of(last, part)
    found.sum().backward()
    hidden.backward(inbox.hidden.grad)

    assert found.equal(expected)
    gradients = {name: torch.zeros_like(value) for name, value in whole.named_parameters()}
    for stage in (first, last):
        for name, parameter in stage.named_parameters():
            gradients[stage.copies.get(name, name)] += parameter.grad
    for name, parameter in whole.named_parameters():
        scale = parameter.grad.abs().max()
        assert (gradients[name] - parameter.grad).abs().max() <= 1e-6 * scale, name


def test_a_stage_holds_its_own_parameters_only():
    config = config_of(OWN)
    names = [
        {
            name.split(".layers.")[-1][:2]
            for name, _ in stage_of(config, number, 2)[0].named_parameters()
        }
        for number in range(2)
    ]

    assert names[0] == {"mo", "0."}  # model.embed_tokens
    assert names[1] == {"mo", "1.", "lm"}  # model.norm


def test_the_copy_of_a_tied_table_starts_as_the_table():
    config = config_of(OWN)
    whole = whole_model(config)
    last, _ = stage_of(config, 1, 2)
    for model in (whole, last):
        initialize(model, 3)

    assert last.copies == {"lm_head.weight": "model.embed_tokens.weight"}
    assert last.lm_head.weight.equal(whole.model.embed_tokens.weight)
    # Matrices that write to the residual stream are scaled by the depth of the whole.
    own, theirs = (model.model.layers[1].mlp.down_proj.weight for model in (last, whole))
    assert own.equal(theirs)


def test_a_layer_that_needs_more_than_hidden_states_is_refused():
    model = on_meta(config_of(OWN))
    block = model.model.layers[1]
    embedding, forward = model.model.embed_tokens, block.forward
    kept = []
    embedding.register_forward_hook(lambda module, given, output: kept.append(output))
    block.register_forward_pre_hook(lambda module, given: (*given[:4], kept[0]))
    block.forward = lambda x, cos, sin, plan, extra: forward(x + extra, cos, sin, plan)

    with pytest.raises(RecipeError, match="given more of other modules than hidden states"):
        observe(model)


def test_layers_that_run_twice_are_refused():
    model = on_meta(config_of(OWN))
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([*layers, layers[0]])

    with pytest.raises(RecipeError, match="do not run once each"):
        observe(model)


def test_zero_bubble_takes_the_loss_of_all_logits():
    model = on_meta(config_of(OWN))
    require_whole_logits(model)
    assert model.output_layer.loss.chunk_tokens is None

    model.output_layer.loss = LossConfig(chunk_tokens=64)
    with pytest.raises(RecipeError, match="64 with pipeline_schedule zero_bubble"):
        require_whole_logits(model)


@pytest.mark.axes
@pytest.mark.parametrize(("dense", "has_experts"), [([0], True), ([0, 1], False)])
def test_every_stage_knows_of_the_experts_of_all(dense, has_experts):
    config = section("qwen3-moe", mlp_only_layers=dense)
    cuts, anatomy = (range(1), range(1, 2)), observe(on_meta(config))
    for number in range(2):
        stage = on_meta(config)
        cut_pipeline(stage, anatomy, cuts, number)
        assert stage.has_experts is has_experts


@pytest.mark.axes
def test_a_balancing_loss_over_all_layers_is_refused():
    config = section("mixtral", output_router_logits=True)
    anatomy = observe(on_meta(config))

    with pytest.raises(RecipeError, match="balancing loss"):
        cut_pipeline(on_meta(config), anatomy, (range(1), range(1, 2)), 0)
