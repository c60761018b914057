"""A section whose form is chosen by its name: read, refused, inherited and shown like any other."""

import pytest

from distrain.config.forms import form_of, forms_of
from distrain.config.models import LlamaConfig, ModelConfig, TransformersConfig
from distrain.config.reading.json_schema import json_schema
from distrain.config.reading.load import load_recipe, read_resolved
from distrain.config.reading.problems import RecipeErrors
from distrain.config.reading.reference import recipe_reference
from distrain.config.reading.resolved import dump_resolved
from distrain.config.recipe import TrainStage
from tests.distrain.models.toy_family import ToyConfig, register, unregister

RECIPE = """\
name: forms
defaults:
  training: {max_steps: 10, sequence_length: 32}
  model: {name: toy, width: 12, hidden_size: 64}
stages:
  prepare: {kind: prepare, data: {source: {kind: python_stdlib}}, pairs: {kind: docstrings}}
  first: {kind: pretrain, needs: prepare}
  second:
    kind: pretrain
    needs: prepare
    model: {name: llama}
  tuned: {kind: sft, needs: first, lora: {target_modules: [qkv]}}
"""


@pytest.fixture(autouse=True)
def toy():
    register()
    yield
    unregister()


@pytest.fixture
def recipe(tmp_path):
    def write(old="", new=""):
        path = tmp_path / "forms.yaml"
        assert old in RECIPE
        path.write_text(RECIPE.replace(old, new))
        return path

    return write


def model_of(loaded, name):
    stage = loaded.recipe.stages[name]
    assert isinstance(stage, TrainStage)
    return stage.model


def refusal(path, *overrides):
    with pytest.raises(RecipeErrors) as refused:
        load_recipe(path, overrides)
    return str(refused.value)


def test_each_stage_takes_the_keys_of_its_own_form_from_the_defaults(recipe):
    loaded = load_recipe(recipe())
    assert model_of(loaded, "first") == ToyConfig(width=12)
    assert model_of(loaded, "second") == LlamaConfig(hidden_size=64)


def test_fine_tuning_inherits_the_family_with_the_sizes(recipe):
    loaded = load_recipe(
        recipe("  model: {name: toy, width: 12, hidden_size: 64}\n", ""),
        [
            "first.model.name=toy",
            "first.model.depth=1",
        ],
    )
    assert model_of(loaded, "tuned") == ToyConfig(depth=1)


def test_a_form_survives_being_resolved_and_read_again(recipe, tmp_path):
    loaded = load_recipe(recipe())
    (tmp_path / "resolved.yaml").write_text(dump_resolved(loaded.recipe))
    assert read_resolved(tmp_path / "resolved.yaml") == loaded.recipe


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: llama", "name: lama", "11:19: unknown model.name 'lama'; expected one of: llama,"),
        ("name: llama", "width: wide", "11:20: model.width: found the text 'wide'; expected a wh"),
        ("name: llama", "name: llama, depth: 1", "11:26: unknown key 'depth' in model"),
        ("width: 12,", "width: 12, widht: 3,", "4:33: unknown key 'widht' in model; did you mean"),
        (
            "{name: toy, width: 12, hidden_size: 64}",
            "{width: 12}",
            "4:11: unknown key 'width' in model",
        ),
        (
            "[qkv]",
            "[q_proj]",
            "found 'q_proj', which is no linear layer of toy; expected some of",
        ),
        ("sequence_length: 32", "sequence_length: 4096", "expected at most model.max_position_emb"),
    ],
)
def test_mistakes_are_shown_at_their_place_in_the_words_of_the_form(recipe, old, new, message):
    assert message in refusal(recipe(old, new))


def test_an_override_may_choose_the_form_and_set_its_keys(recipe):
    loaded = load_recipe(recipe(), ["second.model.name=toy", "second.model.head_size=4"])
    assert model_of(loaded, "second") == ToyConfig(width=12, head_size=4)
    assert "unknown key 'head_size' in model" in refusal(recipe(), "second.model.head_size=4")


def test_an_extended_recipe_may_choose_another_form(recipe, tmp_path):
    recipe("name: llama", "hidden_size: 32, name: llama")
    child = tmp_path / "child.yaml"
    child.write_text("extends: forms.yaml\nname: b\nstages: {second: {model: {name: toy}}}\n")
    assert model_of(load_recipe(child), "second") == ToyConfig(width=12)
    # What is typed with the name has to fit it.
    text = child.read_text()
    child.write_text(text.replace("name: toy", "name: toy, hidden_size: 8"))
    assert "unknown key 'hidden_size' in model" in refusal(child)
    child.write_text(text)
    assert "unknown key 'hidden_size' in model" in refusal(child, "second.model.hidden_size=8")


def test_every_form_is_in_the_reference_and_in_the_schema(monkeypatch):
    assert "## `model` of pretrain and sft and preference stages, `name: toy`" in recipe_reference()
    assert "| `model.head_size` | whole number" in recipe_reference()
    document = json_schema()
    place = document["$defs"]["PretrainStage"]["properties"]["model"]
    forms = ["LlamaConfig", "TransformersConfig", "ToyConfig"]
    assert [form["$ref"] for form in place["anyOf"]] == [f"#/$defs/{form}" for form in forms]
    unregister()
    assert "toy" not in recipe_reference()
    assert (
        "## `model` of pretrain and sft and preference stages, `name: transformers`"
        in recipe_reference()
    )


def test_without_a_name_the_first_form_is_meant():
    assert forms_of(ModelConfig) == (LlamaConfig, TransformersConfig, ToyConfig)
    assert form_of(ModelConfig, None) is LlamaConfig
    assert form_of(ModelConfig, "toy") is ToyConfig
    assert form_of(ToyConfig, "llama") is ToyConfig
