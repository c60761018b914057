import pytest

from distrain.config.models import LlamaConfig, TransformersConfig
from distrain.config.models.tensor_plan import (
    OWN_PLANS,
    TENSOR_STYLES,
    open_ends,
    plan_of,
    style_of,
    unfitting_patterns,
    unknown_styles,
)
from distrain.config.models.transformers.table import family_table


def plan(model_type, tp_plan=None):
    return plan_of(TransformersConfig(model_type=model_type, config={}), tp_plan or {})


def test_the_recipe_goes_before_our_table_and_that_before_the_family():
    own = {"layers.*.mlp.up_proj": "colwise"}
    assert plan("phi3", own) == own
    assert plan("phi3") == OWN_PLANS["phi3"]
    assert family_table().tensor_plan("phi3") != OWN_PLANS["phi3"]
    assert plan("qwen3") == family_table().families["qwen3"].tensor_plan
    assert plan("gpt2") == OWN_PLANS["gpt2"]
    assert family_table().tensor_plan("gpt2") == {}


def test_our_own_llama_is_cut_as_that_of_transformers():
    found = plan_of(LlamaConfig(), {})
    assert found == plan("llama")
    assert style_of(found, "model.layers.11.self_attn.o_proj") == "rowwise"


def test_a_family_beyond_the_tested_ones_brings_its_plan_or_has_none():
    assert style_of(plan("olmo3"), "model.layers.0.mlp.down_proj") == "rowwise"
    assert plan("opt") == {}


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("model.layers.0.mlp.experts", "moe_tp_experts"),
        ("model.layers.12.mlp.experts.down_proj", "rowwise"),
        ("layers.1.mlp.experts.gate_up_proj", "packed_colwise"),
        ("model.layers.0.mlp.gate", None),
        ("model.layers.x.mlp.experts", None),
        ("model.layers.0.mlp.experts.more", None),
        ("model.decoder.layers.0.mlp.experts", "moe_tp_experts"),
        ("model.sublayers.0.mlp.experts", None),
    ],
)
def test_a_pattern_fits_whole_names_with_any_number_of_a_layer(name, style):
    assert style_of(plan("mixtral"), name) == style


def test_styles_that_are_not_known_are_named():
    assert unknown_styles(plan("deepseek_v2")) == ["mla_kv_a_proj"]
    assert unknown_styles({"a": "sideways", "b": "colwise", "c": "packed_rowwise"}) == [
        "packed_rowwise",
        "sideways",
    ]


def test_every_tested_family_but_gpt_oss_has_a_plan_of_known_styles_that_cuts_its_blocks():
    for name, family in family_table().families.items():
        found = plan(name)
        assert set(found.values()) <= set(TENSOR_STYLES)
        layers = {pattern.rpartition(".")[2] for pattern in found}
        # Attention that its family leaves whole (deepseek_v3), and experts, are no linear layers.
        cut = layers & set(family.linear_layers)
        assert cut or name in {"deepseek_v3", "gpt_oss"}, name


GATED = ["layers.0.mlp.gate_proj", "layers.0.mlp.up_proj", "layers.0.mlp.down_proj"]
UP, DOWN = {"mlp.up_proj": "colwise"}, {"mlp.down_proj": "rowwise"}


@pytest.mark.parametrize(
    ("plan", "ends"),
    [
        (UP | DOWN, "up_proj and down_proj of layers.0.mlp cut, and gate_proj beside held whole"),
        (UP | DOWN | {"mlp.gate_proj": "colwise"}, ""),
        (UP | DOWN | {"mlp.gate_proj": "replicate"}, ""),
        (
            UP | {"mlp.gate_proj": "colwise", "mlp.down_proj": "replicate"},
            "gate_proj and up_proj of layers.0.mlp colwise, and no layer beside rowwise",
        ),
        (
            DOWN | {"up_proj": "replicate", "gate_proj": "replicate"},
            "down_proj of layers.0.mlp rowwise, and no layer beside colwise",
        ),
        ({"mlp": "colwise"}, ""),
    ],
)
def test_parts_that_meet_what_is_whole_are_named(plan, ends):
    assert "; ".join(open_ends(plan, GATED)) == ends


def test_plans_of_all_families_leave_no_open_end():
    for name in family_table().families:
        found = plan(name)
        layers = [pattern.replace("*", "0") for pattern in found if "experts" not in pattern]
        assert not list(open_ends(found, layers)), name


def test_patterns_that_fit_nothing_are_named():
    assert unfitting_patterns(UP | DOWN | {"layers.*.fc1": "colwise"}, GATED) == ["layers.*.fc1"]
