import pytest

from distrain.config.training import TrainingConfig
from distrain.errors import RecipeError
from distrain.train.build import steps_of


def test_a_stage_of_less_than_one_step_is_refused():
    training = TrainingConfig(max_tokens=100, global_batch_size=8, sequence_length=256)
    with pytest.raises(RecipeError, match=r"training\.max_tokens: found 100, less than one"):
        steps_of(training, {})


def test_a_length_in_tokens_is_rounded_down():
    training = TrainingConfig(max_tokens=500_000, global_batch_size=8, sequence_length=256)
    assert steps_of(training, {}) == 244
