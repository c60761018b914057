"""Plans of a recipe, against the layers that a model has."""

import pytest
import torch

from distrain.config.models import TransformersConfig
from distrain.config.models.tensor_plan import PLAN_EXAMPLE, plan_of
from distrain.errors import RecipeError
from distrain.models import build_model
from distrain.parallel.tensor.closed import linear_layers, require_closed
from tests.distrain.axes.families import EXPERTS, OURS, model_section
from tests.distrain.parallel.tensor.cut_models import VOCAB

EXAMPLE = dict(part.split(": ") for part in PLAN_EXAMPLE.strip("{}").split(", "))
OPT = {
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def on_meta(section):
    with torch.device("meta"):
        return build_model(section, VOCAB)


def refuse(plan, message, section=None):
    with pytest.raises(RecipeError, match=message):
        require_closed(on_meta(section or model_section(OURS)), plan, is_whole=True)


def test_the_example_of_our_messages_fits_llama_and_its_half_does_not():
    require_closed(on_meta(model_section(OURS)), EXAMPLE, is_whole=True)
    half = {name: style for name, style in EXAMPLE.items() if "gate" not in name}
    refuse(half, "gate_proj beside held whole")
    refuse({"layers.*.self_attn.q_proj": "colwise"}, "k_proj and v_proj and o_proj beside held")


def test_a_pattern_without_a_layer_is_answered_with_names():
    plan = EXAMPLE | {"layers.*.fc1": "colwise"}
    refuse(plan, r"layers\.\*\.fc1, which no layer.*expected names such as .*\*\.mlp\.up_proj")
    # The layers that it means may lie on another stage.
    require_closed(on_meta(model_section(OURS)), plan, is_whole=False)


def test_layers_below_a_decoder_need_no_longer_names():
    section = TransformersConfig(model_type="opt", config=OPT)
    plan = {"layers.*.fc1": "colwise", "layers.*.fc2": "rowwise"}
    require_closed(on_meta(section), plan, is_whole=True)
    refuse({"layers.*.fc1": "colwise"}, "fc1 of .*layers.0 cut, and fc2 beside", section)


@pytest.mark.parametrize("family", [OURS, "gpt2", *EXPERTS[:1]])
def test_the_plan_of_a_family_fits_as_a_recipe(family):
    model = on_meta(model_section(family))
    assert list(linear_layers(model))
    plan = plan_of(model.model_config, {})
    require_closed(model, plan, is_whole=True)
