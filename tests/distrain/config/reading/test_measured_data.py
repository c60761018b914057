"""``data`` of an ``evaluate`` stage: what it needs then, and that it stands for itself."""

import pytest

from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from tests.distrain.config.conftest import TINY, stages_of

EVALUATE = "  evaluate: {kind: evaluate, needs: sft}\n"
FOLDER = "kind: evaluate, model: {from_pretrained: models/mine}, data: {path: chats.jsonl}"


def load(recipe, stage, *pairs):
    text = TINY.replace(EVALUATE, f"  evaluate: {{{stage}}}\n")
    for found, replaced in pairs:
        assert found in text
        text = text.replace(found, replaced)
    recipe.write_text(text)
    return stages_of(load_recipe(recipe))["evaluate"]


def messages(recipe, stage, *pairs):
    with pytest.raises(RecipeErrors) as caught:
        load(recipe, stage, *pairs)
    return [problem.message for problem in caught.value.problems]


@pytest.mark.parametrize("stage", ["prepare", "pretrain", "sft"])
def test_any_stage_that_trains_or_a_folder_is_measured_on_it(recipe, stage):
    measured = f"kind: evaluate, needs: {stage}, data: {{path: chats.jsonl, truncation: drop}}"
    if stage == "prepare":
        assert "is of kind prepare" in messages(recipe, measured)[0]
        assert load(recipe, FOLDER).needs == ()
    else:
        assert load(recipe, measured).data.truncation == "drop"


def test_a_folder_needs_no_other_stage_then(recipe):
    [message] = messages(recipe, f"{FOLDER}, needs: prepare")
    assert message == (
        "'prepare' is of kind prepare; with model.from_pretrained, evaluate needs no other stage, "
        "remove it"
    )


def test_without_a_test_split_to_open_it_is_the_way_to_measure(recipe):
    model = "model: {from_pretrained: m}"
    own = (
        "    kind: sft\n    needs: pretrain\n",
        f"    kind: sft\n    {model}\n    data: {{path: a.jsonl}}\n",
    )
    [message] = messages(recipe, "kind: evaluate, needs: sft", own)
    assert "set its data or harness, or data.test_fraction of 'sft'" in message
    asked = load(recipe, "kind: evaluate, needs: sft, harness: {tasks: [arc_easy]}", own)
    assert asked.harness.tasks == ("arc_easy",)
    assert load(recipe, "kind: evaluate, needs: sft, data: {path: b.jsonl}", own).data.is_own


def test_tasks_alone_are_asked_of_a_folder_too(recipe):
    folder = "kind: evaluate, model: {from_pretrained: models/mine}"
    assert "needs nothing" in messages(recipe, folder)[0]
    assert load(recipe, f"{folder}, harness: {{tasks: [arc_easy]}}").needs == ()


def test_it_names_data_and_divides_none(recipe):
    [message] = messages(recipe, "kind: evaluate, needs: sft, data: {train_on: last}")
    assert "names no data; set one of path, source, sources" in message
    for key in ("validation_fraction: 0.1", "mixture: {main: 1}", "packing: best_fit"):
        [message] = messages(recipe, f"kind: evaluate, needs: sft, data: {{path: a, {key}}}")
        assert f"unknown key '{key.partition(':')[0]}'" in message


def test_defaults_are_of_data_to_train_on(recipe):
    defaults = ("defaults:\n", "defaults:\n  data: {train_on: last, skip_budget: 3}\n")
    assert load(recipe, "kind: evaluate, needs: sft", defaults).data is None
    own = load(recipe, "kind: evaluate, needs: sft, data: {path: a}", defaults)
    assert (own.data.train_on, own.data.skip_budget) == ("assistant", 0)
