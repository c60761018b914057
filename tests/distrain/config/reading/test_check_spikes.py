"""What a recipe asks to be done about spikes, against what the stage can do."""

import pytest

from distrain.config.reading.load import load_recipe
from distrain.errors import RecipeError
from tests.distrain.config.conftest import stages_of

REWIND = "pretrain.training.on_spike=rewind"


def test_by_default_a_spike_is_reported(recipe):
    loaded = load_recipe(recipe)
    training = stages_of(loaded)["pretrain"].training
    assert training.on_spike == "report"
    assert training.spikes.window >= training.spikes.warmup_steps
    assert loaded.notes == ()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [REWIND, "pretrain.checkpoint.keep_last=1", "pretrain.checkpoint.save_steps=2"],
            "checkpoint.keep_last: found 1 with training.on_spike rewind; expected at least 2",
        ),
        (
            ["pretrain.training.spikes.window=8"],
            "warmup_steps 32 is above window 8, which never holds as many",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(recipe, overrides, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        ([REWIND], "but the stage ends at step 10: every rewind goes back to step 0"),
        (
            ["pretrain.training.on_spike=skip", "pretrain.parallelism.strategy=deepspeed"],
            "a spike of the loss is skipped, one of the norm only reported",
        ),
    ],
)
def test_what_may_surprise_is_noted(recipe, overrides, note):
    (found,) = load_recipe(recipe, overrides).notes
    assert note in found


@pytest.mark.parametrize(
    "overrides",
    [
        [REWIND, "pretrain.checkpoint.save_steps=2"],
        [
            "pretrain.training.on_spike=skip",
            "pretrain.parallelism.strategy=deepspeed",
            "pretrain.training.spikes.grad_norm_threshold=null",
        ],
    ],
)
def test_what_can_be_done_is_not(recipe, overrides):
    assert load_recipe(recipe, overrides).notes == ()
