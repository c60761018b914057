"""A smoke run is one override: what the recipe says of warm-up and decay is cut to fit."""

import pytest

from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from launcher.resources import find_recipe
from tests.distrain.config.conftest import TINY, stages_of

LONG = (
    TINY.replace(
        "  optimizer: {learning_rate: 1e-3}\n",
        "  optimizer: {learning_rate: 1e-3}\n"
        "  lr_scheduler: {name: wsd, warmup_steps: 40, decay_steps: 50}\n",
    )
    .replace("max_steps: 10}", "max_steps: 100}")
    .replace("max_steps: 5}", "max_steps: 90}")
)


@pytest.fixture
def long(recipe):
    recipe.write_text(LONG)
    return recipe


def test_one_override_makes_a_smoke_run_of_the_shipped_recipe():
    loaded = load_recipe(find_recipe("quickstart"), ["training.max_steps=4"])
    pretrain, sft = (stages_of(loaded)[name].lr_scheduler for name in ("pretrain", "sft"))
    assert (pretrain.warmup_steps, sft.warmup_steps) == (2, 2)
    assert "pretrain: lr_scheduler.warmup_steps 40 -> 2, to fit into 4 steps" in loaded.notes


@pytest.mark.parametrize(
    ("override", "warmup", "decay"),
    [
        ("training.max_steps=4", 2, 2),
        ("training.max_steps=1", 0, 1),
        ("training.max_steps=60", 40, 20),
        ("training.max_steps=90", 40, 50),
        ("training.max_tokens=4096", 4, 4),
    ],
)
def test_warm_up_and_decay_are_cut_to_a_length_that_was_typed(override, warmup, decay, long):
    schedule = stages_of(load_recipe(long, [override]))["pretrain"].lr_scheduler
    assert (schedule.warmup_steps, schedule.decay_steps) == (warmup, decay)


def test_only_the_stage_that_was_made_short_is_changed(long):
    stages = stages_of(load_recipe(long, ["sft.training.max_steps=4"]))
    assert stages["pretrain"].lr_scheduler.warmup_steps == 40
    assert stages["sft"].lr_scheduler.warmup_steps == 2


def test_a_warm_up_that_was_typed_is_judged_as_it_stands(long):
    with pytest.raises(RecipeErrors, match="found 40; expected at most the 4 steps of the run"):
        load_recipe(long, ["training.max_steps=4", "lr_scheduler.warmup_steps=40"])


def test_a_recipe_that_contradicts_itself_is_refused(long):
    long.write_text(LONG.replace("max_steps: 100", "max_steps: 30"))
    with pytest.raises(RecipeErrors, match="found 40; expected at most the 30 steps of the run"):
        load_recipe(long)
