"""A model that lets documents see each other is refused when it is loaded."""

from typing import Any

import pytest
import torch
from torch import nn

from distrain.config.models.transformers import TransformersConfig
from distrain.errors import RecipeError
from distrain.models import build_model, model_on_meta
from distrain.models.attention import plan_attention, undivided
from distrain.models.transformers import interface
from distrain.models.transformers import model as transformers_model
from distrain.models.weights.filling import build_empty, fill_module
from distrain.models.weights.source import TensorWeights
from tests.distrain.models.transformers.families import FAMILIES, VOCAB_SIZE, bent, section

QUICK = ("qwen3", "gemma2", "gpt2", "deepseek-v3", "gpt-oss")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.models) for name in FAMILIES],
)
def test_every_family_passes_and_is_as_it_was(name):
    model = bent(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.require_separate_documents(model)
    assert model.training
    assert model.family.config._attn_implementation == interface.ATTENTION
    assert all(before[key].equal(value) for key, value in model.state_dict().items())


def plan_of_whole_rows(documents):
    return plan_attention(undivided(documents.position_ids))


def expect_refusal(model, found):
    with pytest.raises(RecipeError) as caught:
        model.require_separate_documents(model)
    assert found in str(caught.value)
    assert "model.model_type" in str(caught.value)


def test_rows_that_are_read_as_one_document_are_refused(monkeypatch):
    model = bent("qwen3")
    monkeypatch.setattr(transformers_model, "plan_attention", plan_of_whole_rows)
    expect_refusal(model, "one document of a row moves the scores of another")


def test_a_layer_that_mixes_neighbouring_positions_is_refused():
    model = bent("qwen3")

    class Shifting(nn.Module):
        def forward(self, hidden):
            return hidden + 0.1 * hidden.roll(1, dims=1)

    model.model.norm = nn.Sequential(model.model.norm, Shifting())
    expect_refusal(model, "one document of a row moves the scores of another")


def test_positions_that_run_through_a_row_are_refused():
    model = bent("gpt2")
    decoder = model.transformer
    forward = decoder.forward

    def from_the_start(position_ids, **settings):
        through = torch.arange(position_ids.shape[1]).expand_as(position_ids)
        return forward(position_ids=through, **settings)

    decoder.forward = from_the_start
    expect_refusal(model, "depend on what lies before it")


def test_a_layer_that_does_not_call_attention_is_refused():
    model = bent("llama-2")
    layer = model.model.layers[1]
    layer.self_attn.forward = lambda hidden_states, **settings: (hidden_states, None)
    expect_refusal(model, "1 of 2 layers")


def test_a_window_that_a_mask_has_and_a_layer_does_not_pass_is_refused(monkeypatch):
    monkeypatch.delitem(interface.RULE_OF, "sliding_window")
    ignored = interface.WITHOUT_MEANING | {"sliding_window"}
    monkeypatch.setattr(interface, "WITHOUT_MEANING", ignored)
    expect_refusal(bent("mistral-window"), "masks that reach")
    # Before the queue too, where nothing has values.
    without_values = model_on_meta(section("mistral-window"), VOCAB_SIZE)
    expect_refusal(without_values.bfloat16(), "masks that reach")


def test_without_values_a_mask_that_a_layer_computes_with_is_refused():
    model: Any = model_on_meta(section("llama-2"), VOCAB_SIZE).bfloat16()
    layer = model.model.layers[0].self_attn
    forward = layer.forward

    def with_mask(*inputs, attention_mask, **settings):
        return forward(*inputs, attention_mask=attention_mask.to(torch.bool), **settings)

    layer.forward = with_mask
    expect_refusal(model, "attention that computes with masks itself (their to)")


def test_what_attention_does_not_know_is_refused():
    model = bent("llama-2")
    layer = model.model.layers[0].self_attn
    forward = layer.forward
    layer.forward = lambda *inputs, **settings: forward(*inputs, **settings, position_bias=1.0)
    expect_refusal(model, "position_bias")


def test_the_probe_runs_when_weights_are_loaded(monkeypatch):
    weights = TensorWeights(bent("qwen3").state_dict())
    model = build_empty(section("qwen3"), VOCAB_SIZE)
    fill_module(model, weights, torch.device("cpu"))
    monkeypatch.setattr(transformers_model, "plan_attention", plan_of_whole_rows)
    model = build_empty(section("qwen3"), VOCAB_SIZE)
    with pytest.raises(RecipeError, match="moves the scores of another"):
        fill_module(model, weights, torch.device("cpu"))


@pytest.mark.parametrize(
    ("model_type", "config", "found"),
    [
        ("lama", {}, "no family of the installed transformers"),
        ("bert", {}, "output layer"),
        ("t5", {}, "no causal language model"),
        ("llama", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ("gemma3", {}, "more than text"),
    ],
)
def test_what_is_no_decoder_of_text_is_refused(model_type, config, found):
    with pytest.raises(RecipeError) as caught, torch.device("meta"):
        build_model(TransformersConfig(model_type=model_type, config=config), VOCAB_SIZE)
    assert found in str(caught.value)


def test_without_values_the_calls_alone_are_judged():
    hybrid = {"hidden_size": 32, "num_hidden_layers": 5, "intermediate_size": 16}
    model = model_on_meta(TransformersConfig(model_type="jamba", config=hybrid), VOCAB_SIZE)
    expect_refusal(model.bfloat16(), "1 of 5 layers that call attention through the interface")
    for name in ("qwen3", "mixtral", "gpt2", "gpt-oss", "gemma2", "mistral-window"):
        model = model_on_meta(section(name), VOCAB_SIZE).bfloat16()
        model.require_separate_documents(model)
