from pathlib import Path

import pytest

from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors

RECIPE = """\
name: prefer
stages:
  prefer:
    kind: preference
    model: {{from_pretrained: base}}
    data: {data}
    training: {{max_steps: 2{training}}}
    preference: {{{preference}}}
    lora: {lora}
"""


def load(folder: Path, *, data="{path: pairs.jsonl}", training="", preference="", lora="{r: 2}"):
    path = folder / "prefer.yaml"
    path.write_text(RECIPE.format(data=data, training=training, preference=preference, lora=lora))
    return load_recipe(path).recipe.stages["prefer"]


def test_rates_are_those_of_preferences_unless_they_are_stated(tmp_path):
    assert load(tmp_path).optimizer.learning_rate == 1e-5
    assert load(tmp_path, lora="null").optimizer.learning_rate == 1e-6


def test_what_is_trained_for_follows_from_the_kind(tmp_path):
    stage = load(tmp_path, preference="loss: ipo, beta: 0.5")
    assert stage.training.task == "preference"
    assert (stage.preference.loss, stage.preference.beta) == ("ipo", 0.5)
    assert stage.tokens_per_sample == 2 * stage.training.sequence_length


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lora": "null", "preference": "reference: live"}, "found live, while lora: null trains"),
        (
            {"lora": "{modules_to_save: [lm_head]}", "preference": "reference: live"},
            "while lora.modules_to_save trains lm_head itself",
        ),
        ({"data": "{}"}, "no prepare stage makes pairs of a chosen and a rejected answer"),
        ({"training": ", loss: {label_smoothing: 0.1}"}, "set loss.label_smoothing to 0"),
        ({"training": ", task: causal_lm"}, "found causal_lm in a stage of kind preference"),
        ({"preference": "loss: hinge, label_smoothing: 0.1"}, "label_smoothing is of loss sigmoid"),
        ({"data": "{path: pairs.jsonl, packing: best_fit}"}, "packing"),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(tmp_path, changes, problem):
    with pytest.raises(RecipeErrors, match=problem):
        load(tmp_path, **changes)
