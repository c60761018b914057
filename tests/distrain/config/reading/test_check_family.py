"""A family of transformers in a recipe: what is wrong with its settings is said at their place."""

import sys

import pytest

from distrain.config.models import LlamaConfig, TransformersConfig
from distrain.config.reading.load import load_recipe, read_resolved
from distrain.config.reading.problems import RecipeErrors
from distrain.config.reading.resolved import dump_resolved

RECIPE = """\
name: families
stages:
  prepare: {{kind: prepare, data: {{source: {{kind: python_stdlib}}}}}}
  pretrain:
    kind: pretrain
    needs: prepare
    model: {{model_type: {model_type}, config: {{{config}}}}}
    training: {{max_steps: 4, sequence_length: 64}}
  more: {{kind: pretrain, needs: [pretrain, prepare], training: {{max_steps: 2}}}}
"""


def model_of(loaded, stage="pretrain"):
    return loaded.recipe.stages[stage].model


@pytest.fixture
def recipe(tmp_path):
    def write(config="hidden_size: 64, num_hidden_layers: 2", model_type="qwen3"):
        path = tmp_path / "families.yaml"
        path.write_text(RECIPE.format(config=config, model_type=model_type))
        return path

    return write


def test_a_family_is_meant_without_its_name_and_stated_whole(recipe, tmp_path):
    loaded = load_recipe(recipe())
    model = model_of(loaded)
    assert isinstance(model, TransformersConfig)
    assert (model.config["hidden_size"], model.config["head_dim"]) == (64, 128)
    later = model_of(loaded, "more")
    assert isinstance(later, TransformersConfig)
    assert later.config == {"hidden_size": 64, "num_hidden_layers": 2}
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_resolved(loaded.recipe))
    assert read_resolved(resolved) == loaded.recipe
    assert "transformers" not in sys.modules or "torch" in sys.modules


def test_overrides_reach_a_family_s_settings_and_choose_another_form(recipe):
    changed = load_recipe(recipe(), ["pretrain.model.config.hidden_size=32"])
    assert model_of(changed).config["hidden_size"] == 32
    own = load_recipe(recipe(), ["pretrain.model.name=llama", "more.model.name=llama"])
    assert model_of(own) == LlamaConfig()


PLACE = "families.yaml:7:"


@pytest.mark.parametrize(
    ("config", "place", "message"),
    [
        ("hiden_size: 64", 41, "unknown key 'hiden_size' in model.config of qwen3; did you mean "
         "'hidden_size'?"),
        ("hidden_size: big", 54, "model.config.hidden_size: found the text 'big'; expected a"),
        ("hidden_size: 64.5", 54, "model.config.hidden_size: found 64.5; expected a whole number"),
        ("hidden_size: 0", 54, "model.config.hidden_size: found 0; expected a whole number of at"),
        ("hidden_act: sillu", 53, "unknown model.config.hidden_act 'sillu'; did you mean 'silu'?"),
        ("vocab_size: 100", 41, "has no key 'vocab_size': the tokenizer decides it; remove it"),
        ("rope_theta: 5.0e5", 41, "write it in rope_parameters: {rope_type: default, rope_theta"),
        ("num_key_value_heads: 5", 62, "found 5; expected a divisor of num_attention_heads 32"),
        ("attention_bias: 1", 57, "model.config.attention_bias: found 1; expected true or false"),
        ("n_embd: 64", 41, "unknown key 'n_embd' in model.config of qwen3; "),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_at_its_place(recipe, config, place, message):
    with pytest.raises(RecipeErrors) as refused:
        load_recipe(recipe(config))
    found = refused.value.problems
    assert [str(problem.place).rpartition("/")[2] for problem in found] == [f"{PLACE}{place}"]
    assert message in found[0].message


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("qwen33", "unknown model.model_type 'qwen33'; expected a causal family of transformers "),
        ("falcon", "found model_type 'falcon', which has attention of its own; expected"),
        ("llama4", "'llama4', which has parts beside the language model"),
    ],
)
def test_a_family_that_cannot_be_trained_is_refused_by_name(recipe, model_type, message):
    with pytest.raises(RecipeErrors) as refused:
        load_recipe(recipe(model_type=model_type))
    assert message in str(refused.value)


def test_synonyms_are_taken_once(recipe):
    model = model_of(load_recipe(recipe("hidden_size: 96", "gpt2")))
    assert isinstance(model, TransformersConfig)
    assert model.config["n_embd"] == 96
    with pytest.raises(RecipeErrors, match="hidden_size and n_embd are the same setting"):
        load_recipe(recipe("hidden_size: 96, n_embd: 96", "gpt2"))


def test_a_sequence_beyond_the_family_s_positions_is_refused(recipe):
    with pytest.raises(RecipeErrors, match="found 64; expected at most"):
        load_recipe(recipe("n_positions: 32", "gpt2"))
