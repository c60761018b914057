"""A family's recorded rule of initial values is what transformers itself does."""

import math
from collections import defaultdict

import pytest
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from distrain.models import build_model, model_on_meta
from distrain.models.init import initialize, rule_of
from distrain.models.initial_values import Constant, Normal
from distrain.models.transformers.construction import family_config
from tests.distrain.models.transformers.families import FAMILIES, VOCAB_SIZE, section

QUICK = ("gpt2", "gemma2", "gpt-oss")
every_family = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.models) for name in FAMILIES],
)


def values_of_transformers(name):
    found = section(name)
    config = family_config(found.model_type, found.config, VOCAB_SIZE)
    torch.manual_seed(0)
    module = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._from_config(config, dtype=torch.float32)
    return {key: value.detach() for key, value in module.named_parameters()}


def by_rule(values, rules):
    """Lay the elements of all parameters of one rule end to end."""
    parts = defaultdict(list)
    for key, value in values.items():
        parts[rules[key]].append(value.detach().flatten())
    return {rule: torch.cat(found) for rule, found in parts.items()}


@every_family
def test_values_are_spread_as_from_config_spreads_them(name):
    model = build_model(section(name), VOCAB_SIZE)
    initialize(model, 0)
    ours, theirs = dict(model.named_parameters()), values_of_transformers(name)
    assert ours.keys() == theirs.keys()
    rules = {key: model.family_rule(key, value.shape) for key, value in ours.items()}
    assert {type(rule) for rule in rules.values()} <= {Normal, Constant}
    mine, made = by_rule(ours, rules), by_rule(theirs, rules)
    for rule in mine:
        if isinstance(rule, Constant):
            assert mine[rule].eq(rule.value).all()
            assert made[rule].eq(rule.value).all()
        elif mine[rule].numel() >= 2000:  # of fewer, chance alone moves a spread by 5 %
            assert float(mine[rule].std()) == pytest.approx(rule.std, rel=0.05)
            assert float(made[rule].std()) == pytest.approx(rule.std, rel=0.05)


def test_the_rule_of_a_module_around_a_layer_is_found():
    model = build_model(section("gpt2"), VOCAB_SIZE)
    inner, scaled = (
        model.family_rule(f"transformer.h.0.{name}.weight", torch.Size())
        for name in ("attn.c_attn", "attn.c_proj")
    )
    assert isinstance(inner, Normal)
    assert isinstance(scaled, Normal)
    assert scaled.std == pytest.approx(inner.std / math.sqrt(2 * 2))


def test_values_follow_from_seed_and_name():
    first, again, other = (build_model(section("qwen3"), VOCAB_SIZE) for _ in range(3))
    for model, seed in ((first, 0), (again, 0), (other, 1)):
        initialize(model, seed)
    matrices = [key for key, value in first.named_parameters() if value.ndim > 1]
    assert all(first.get_parameter(k).equal(again.get_parameter(k)) for k in matrices)
    assert not any(first.get_parameter(k).equal(other.get_parameter(k)) for k in matrices)


def test_biases_of_experts_start_from_zero_under_every_rule():
    found = section("gpt-oss").model_copy(update={"initialization": "xavier_normal"})
    model = build_model(found, VOCAB_SIZE)
    experts = "model.layers.0.mlp.experts"
    bias = rule_of(model, f"{experts}.down_proj_bias", torch.Size((4, 32)))
    assert bias == Constant(0.0)
    assert rule_of(model, f"{experts}.down_proj", torch.Size((4, 32, 32))) == Normal(
        math.sqrt(2 / 64)
    )


@pytest.mark.parametrize(
    ("name", "of"),
    [("gpt2", "transformer.h.0.mlp.c_fc"), ("gpt-oss", "model.layers.0.mlp.experts")],
)
def test_matrices_that_are_stored_inputs_first_are_known(name, of):
    model = model_on_meta(section(name), VOCAB_SIZE)
    weight = f"{of}.weight" if name == "gpt2" else f"{of}.gate_up_proj"
    shape = model.get_parameter(weight).shape
    inputs, outputs = model.fans(weight, shape)
    assert (inputs, outputs) == tuple(shape[-2:])
    assert outputs > inputs  # the residual stream comes in
    assert not model.has_inputs_first("lm_head.weight")
