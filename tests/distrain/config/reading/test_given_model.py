"""A model that no stage trains: what ``evaluate`` and ``export`` take instead of a stage."""

import pytest

from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from distrain.config.reading.resolved import dump_resolved
from tests.distrain.config.conftest import stages_of

GIVEN = """\
name: given
stages:
  prepare:
    kind: prepare
    data: {source: {kind: python_stdlib}}
    tokenizer: {path: base}
  evaluate: {kind: evaluate, needs: prepare, model: {from_pretrained: base}}
  export: {kind: export, model: {from_pretrained: base.gguf}}
"""
LINE = """\
name: line
defaults: {model: {from_pretrained: base}}
stages:
  sft:
    kind: sft
    data: {path: pairs.jsonl}
    training: {max_steps: 2, sequence_length: 64}
  export: {kind: export, needs: sft}
"""


def test_neither_needs_a_stage_that_trains(recipe):
    recipe.write_text(GIVEN)
    loaded = load_recipe(recipe)
    stages = stages_of(loaded)
    assert stages["evaluate"].model.from_pretrained == "base"
    assert (stages["export"].model.from_pretrained, stages["export"].needs) == ("base.gguf", ())
    recipe.write_text(dump_resolved(loaded.recipe))
    assert load_recipe(recipe).recipe == loaded.recipe


@pytest.mark.parametrize(
    ("found", "replaced", "place", "message"),
    [
        (
            "model: {from_pretrained: base.gguf}",
            "model: {hidden_size: 64}",
            "8:34",
            "unknown key 'hidden_size' in model",
        ),
        (
            "kind: export, ",
            "kind: export, needs: prepare, ",
            "8:33",
            "'prepare' is of kind prepare; with model.from_pretrained, export needs no other "
            "stage, remove it",
        ),
        (
            "needs: prepare, model",
            "needs: [], model",
            "7:30",
            "stage 'evaluate' needs nothing; evaluate needs exactly one prepare stage, such as "
            "needs: prepare",
        ),
        (
            ", model: {from_pretrained: base.gguf}",
            "",
            "8:3",
            "stage 'export' needs nothing; export needs exactly one pretrain, sft or "
            "preference stage; or set "
            "model.from_pretrained",
        ),
        (
            "    tokenizer: {path: base}\n",
            "",
            "6:37",
            "'prepare' trains a tokenizer of its own, but the model was trained with that of base; "
            "set prepare.tokenizer.path to base/tokenizer.json",
        ),
    ],
)
def test_what_is_missing_or_too_much_is_said_at_its_place(found, replaced, place, message, recipe):
    assert found in GIVEN
    recipe.write_text(GIVEN.replace(found, replaced))
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert str(problem.place) == f"{recipe}:{place}"


def test_what_is_said_of_all_stages_is_the_model_of_the_line(recipe):
    recipe.write_text(LINE)
    for overrides in ((), ("model.from_pretrained=another",)):
        stages = stages_of(load_recipe(recipe, overrides))
        assert stages["sft"].model.from_pretrained is not None
        assert stages["export"].model.from_pretrained is None  # as before it could say one


def test_a_stage_has_one_model(recipe):
    recipe.write_text(LINE.replace("needs: sft}", "needs: sft, model: {from_pretrained: other}}"))
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe)
    (problem,) = caught.value.problems
    expected = "the model comes from 'sft' or from this folder, not both; remove one"
    assert problem.message == expected
    assert str(problem.place) == f"{recipe}:8:46"
