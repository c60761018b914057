"""Adapters learn at ten times the rate of full tuning where the recipe states none."""

import pytest

from distrain.config.reading.load import dump_resolved, load_recipe, read_resolved
from distrain.config.recipe import SftStage

RECIPE = """\
name: rates
stages:
  sft:
    kind: sft
    model: {from_pretrained: /nowhere}
    data: {path: pairs.jsonl}
    training: {max_steps: 9}
"""


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        ([], 3e-3),
        (["optimizer.name=sgd"], 0.1),
        (["lora=null"], 3e-4),
        (["optimizer.learning_rate=3e-4"], 3e-4),
        (["optimizer.learning_rate=5e-4", "lora.r=4"], 5e-4),
    ],
)
def test_the_default_depends_on_what_is_trained_and_is_pinned(overrides, rate, tmp_path):
    path = tmp_path / "rates.yaml"
    path.write_text(RECIPE)
    recipe = load_recipe(path, overrides).recipe
    stage = recipe.stages["sft"]
    assert isinstance(stage, SftStage)
    assert stage.optimizer.learning_rate == rate
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_resolved(recipe))
    assert read_resolved(resolved) == recipe
    assert load_recipe(resolved).recipe == recipe
