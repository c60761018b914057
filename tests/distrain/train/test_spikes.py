"""Which values are spikes: a pure function of the values that were taken before."""

import json
import math
import statistics

import numpy as np
import pytest

from distrain.config.spikes import SpikesConfig
from distrain.train.spikes import LEAST_MAD, SpikeFinder

CONFIG = SpikesConfig(window=16, warmup_steps=8, loss_threshold=10.0, grad_norm_threshold=20.0)


def finder_after(values, config=CONFIG):
    finder = SpikeFinder(config)
    for loss, norm in values:
        finder.take(loss, norm)
    return finder


def noise(count, seed=0):
    dice = np.random.default_rng(seed)
    return [(float(4 + dice.normal(0, 0.2)), float(dice.lognormal(0, 0.3))) for _ in range(count)]


def test_median_and_limit_are_those_of_the_last_values_by_their_definition():
    values = noise(40)
    found = finder_after(values).find(400.0, 1.0)
    last = [loss for loss, _ in values[-CONFIG.window :]]
    median = statistics.median(last)
    mad = statistics.median(abs(loss - median) for loss in last)
    assert (found.metric, found.value, found.median) == ("loss", 400.0, median)
    assert found.limit == median + 10.0 * max(mad, LEAST_MAD * median)


def test_just_below_the_limit_is_none_and_just_above_is_one():
    finder = finder_after(noise(40))
    limit = finder.find(400.0, 1.0).limit
    assert finder.find(limit, 1.0) is None
    assert finder.find(math.nextafter(limit, math.inf), 1.0).metric == "loss"
    assert finder.find(4.0, 100.0).metric == "grad_norm"
    assert finder.find(0.0, 0.0) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_no_spike_and_is_not_taken(value):
    finder = finder_after(noise(40))
    before = finder.to_json()
    finder.take(value, value)
    assert finder.find(value, value) is None
    assert finder.to_json() == before


def test_nothing_is_judged_before_the_window_has_its_fill_and_nothing_without_a_threshold():
    assert finder_after(noise(7)).find(400.0, 400.0) is None
    assert finder_after(noise(8)).find(400.0, 400.0) is not None
    blind = CONFIG.model_copy(update={"loss_threshold": None})
    assert finder_after(noise(40), blind).find(400.0, 1.0) is None
    assert finder_after(noise(40), blind).find(400.0, 400.0).metric == "grad_norm"


def test_a_loss_that_hardly_scatters_may_rise_a_little():
    flat = finder_after([(2.0, 1.0)] * 16)
    assert flat.find(2.19, 1.0) is None
    assert flat.find(2.21, 1.0) is not None


def test_a_spike_that_was_applied_hides_none_after_it_and_a_new_level_becomes_usual():
    finder = finder_after(noise(40))
    limit = finder.find(400.0, 1.0).limit
    finder.take(400.0, 1.0)
    assert finder.find(400.0, 1.0).limit == pytest.approx(limit, rel=0.2)
    for _ in range(CONFIG.window):
        finder.take(400.0, 1.0)
    assert finder.find(400.0, 1.0) is None


def test_state_survives_a_checkpoint_to_the_bit_also_in_a_smaller_window():
    before = finder_after(noise(40))
    state = json.loads(json.dumps(before.to_json()))
    again = SpikeFinder(CONFIG)
    again.load(state)
    smaller = SpikeFinder(CONFIG.model_copy(update={"window": 8}))
    smaller.load(state)
    for finder in (before, again, smaller):
        finder.take(4.125, 0.875)
    assert again.to_json() == before.to_json()
    assert again.find(400.0, 1.0) == before.find(400.0, 1.0)
    assert smaller.to_json()["loss"] == before.to_json()["loss"][-8:]


def test_no_false_alarm_in_ten_thousand_steps_of_noise():
    values = noise(10_000)
    finder = finder_after(values[:128], SpikesConfig())
    alarms = 0
    for loss, norm in values[128:]:
        alarms += finder.find(loss, norm) is not None
        finder.take(loss, norm)
    assert alarms == 0
