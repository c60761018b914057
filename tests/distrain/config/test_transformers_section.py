"""The section of transformers' families, and the table that it goes by, without transformers."""

import pytest
from pydantic import ValidationError

from distrain.config.models import LlamaConfig, TransformersConfig
from distrain.config.models.transformers.table import family_table

QWEN3 = TransformersConfig(model_type="qwen3", config={"hidden_size": 64, "head_dim": 16})
GPT2 = TransformersConfig(model_type="gpt2", config={"hidden_size": 64, "n_layer": 2})


def test_a_completed_section_states_every_key_under_the_family_s_own_names():
    config = QWEN3.completed().config
    assert (config["hidden_size"], config["num_hidden_layers"]) == (64, 32)
    assert config.keys() == family_table().families["qwen3"].keys.keys()
    assert "vocab_size" not in config
    whole = GPT2.completed()
    assert (whole.config["n_embd"], whole.config["n_layer"]) == (64, 2)
    assert "hidden_size" not in whole.config
    assert whole.completed() == whole


@pytest.mark.parametrize("section", [QWEN3, GPT2], ids=["qwen3", "gpt2"])
def test_common_questions_are_answered_in_the_family_s_words(section):
    assert section.max_position_embeddings == {"qwen3": 32768, "gpt2": 1024}[section.model_type]
    assert section.tie_word_embeddings is (section.model_type == "gpt2")
    assert "lm_head" not in section.adaptable_layers


@pytest.mark.parametrize(
    ("model_type", "config", "number", "are_stacked"),
    [
        ("mixtral", {}, 8, True),
        ("deepseek_v3", {"n_routed_experts": 16}, 16, True),
        ("olmoe", {"num_experts": 4}, 4, True),
        ("olmoe", {}, None, True),
        ("jetmoe", {"num_local_experts": 4}, 4, False),
        ("qwen3", {}, 0, False),
        ("stablelm", {}, 0, False),
    ],
)
def test_experts_are_counted_and_known_to_be_stacked(model_type, config, number, are_stacked):
    section = TransformersConfig(model_type=model_type, config=config)
    assert (section.num_experts, section.stacks_experts) == (number, are_stacked)
    assert section.has_experts is bool(number)
    assert (LlamaConfig().num_experts, LlamaConfig().stacks_experts) == (0, False)


def test_rates_are_those_of_the_stage_that_trains_and_sizes_are_not():
    later = TransformersConfig(model_type="gpt2", config={"resid_pdrop": 0.3, "n_layer": 9})
    config = GPT2.completed().with_rates_of(later).config
    assert (config["resid_pdrop"], config["attn_pdrop"], config["n_layer"]) == (0.3, 0.1, 2)
    assert GPT2.with_rates_of(LlamaConfig(dropout=0.5)) == GPT2


def test_differences_are_named_key_by_key():
    other = TransformersConfig(model_type="gpt2", config={"n_layer": 3, "resid_pdrop": 0.5})
    found = [(size.path, size.found, size.wanted) for size in other.differences_from(GPT2)]
    assert found == [(("config", "n_layer"), 3, 2)]
    assert [size.path for size in QWEN3.differences_from(GPT2)] == [("model_type",)]
    assert [size.path for size in LlamaConfig().differences_from(GPT2)] == [("name",)]


def test_a_config_json_is_kept_whole_and_older_names_are_read():
    fields = {
        "model_type": "qwen3",
        "hidden_size": 64,
        "rope_theta": 5e5,
        "pad_token_id": 7,
        "vocab_size": 90,
        "torch_dtype": "bfloat16",
        "auto_map": {"AutoConfig": "x.y"},
    }
    section = TransformersConfig.from_json(fields)
    assert section.config["rope_parameters"] == {"rope_type": "default", "rope_theta": 5e5}
    assert section.config["pad_token_id"] == 7
    assert not section.config.keys() & {"vocab_size", "torch_dtype", "auto_map", "rope_theta"}
    written = section.to_json()
    assert (written["architectures"], written["model_type"]) == (["Qwen3ForCausalLM"], "qwen3")
    assert TransformersConfig.from_json(written) == section


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"model_type": "falcon"}, "model_type 'falcon', which has attention of its own"),
        ({"model_type": "gemma3"}, "'gemma3', which has parts beside the language model"),
        ({"model_type": "gemma2", "text_config": {}}, "which has parts beside the language model"),
        (
            {"model_type": "qwen3", "quantization_config": {"quant_method": "gptq"}},
            "weights (gptq)",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_can(fields, found):
    assert TransformersConfig.may_read(fields)
    refusal = TransformersConfig.refusal(fields)
    assert refusal is not None
    assert found in refusal.found
    assert TransformersConfig.refusal({"model_type": "gemma2"}) is None


@pytest.mark.parametrize(
    ("setting", "is_ignored"),
    [({"depth_scaling": True}, True), ({"depth_scaling": False}, True), ({}, False)],
)
def test_a_scaling_by_depth_that_would_be_ignored_is_refused(setting, is_ignored):
    named = {"model_type": "gpt2", "initialization": "normal", "depth_scaling": False}
    assert TransformersConfig.model_validate(named).depth_scaling is False  # named rules have none
    if not is_ignored:
        assert GPT2.depth_scaling is None
        return
    with pytest.raises(ValidationError, match="a family of transformers decides itself; remove it"):
        TransformersConfig.model_validate({"model_type": "gpt2", **setting})
