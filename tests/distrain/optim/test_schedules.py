from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.config.training import LrSchedulerConfig
from distrain.optim.schedules import SCHEDULES, lr_at

PEAK = 1e-3
names = st.sampled_from(sorted(SCHEDULES))
configs = st.builds(
    LrSchedulerConfig,
    name=names,
    warmup_steps=st.integers(0, 40),
    min_lr_ratio=st.floats(0, 1),
    decay_steps=st.none() | st.integers(1, 200),
)


def rates(total_steps, config):
    return [lr_at(step, total_steps, PEAK, config) for step in range(total_steps)]


@settings(deadline=None)
@given(configs, st.integers(1, 120))
def test_rises_to_the_peak_then_never_rises_again_nor_leaves_its_bounds(config, total_steps):
    values = rates(total_steps, config)
    warmup, rest = values[: config.warmup_steps], values[config.warmup_steps :]
    assert all(0 < rate < PEAK for rate in warmup)
    assert warmup == sorted(warmup)
    # But for rounding, where the minimum is the peak but for a bit.
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(rest))
    low = PEAK * config.min_lr_ratio
    assert all(low * (1 - 1e-9) <= rate <= PEAK * (1 + 1e-9) for rate in rest)


@settings(deadline=None)
@given(configs, st.integers(42, 120))
def test_last_update_has_the_minimum(config, total_steps):
    expected = 1.0 if config.name == "constant" else config.min_lr_ratio
    last = lr_at(total_steps - 1, total_steps, PEAK, config)
    assert last == pytest.approx(PEAK * expected, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(configs, st.integers(1, 120), st.integers(0, 50))
def test_steps_past_the_end_keep_the_last_rate(config, total_steps, extra):
    if config.warmup_steps >= total_steps:
        return
    last = lr_at(total_steps - 1, total_steps, PEAK, config)
    assert lr_at(total_steps + extra, total_steps, PEAK, config) == last


def test_first_update_after_warmup_has_the_whole_peak():
    for name in ("cosine", "wsd", "constant"):
        config = LrSchedulerConfig(name=name, warmup_steps=4, min_lr_ratio=0.1)
        assert lr_at(4, 100, PEAK, config) == PEAK
        assert rates(100, config)[:4] == pytest.approx([PEAK * k / 5 for k in (1, 2, 3, 4)])


def test_cosine_is_halfway_down_in_the_middle():
    config = LrSchedulerConfig(name="cosine", min_lr_ratio=0.2)
    assert lr_at(50, 101, PEAK, config) == pytest.approx(PEAK * 0.6)


def test_wsd_stays_until_the_last_tenth_then_falls_in_equal_steps():
    values = rates(100, LrSchedulerConfig(name="wsd", min_lr_ratio=0.0))
    assert values[:90] == [PEAK] * 90
    assert values[90:] == pytest.approx([PEAK * k / 10 for k in range(9, -1, -1)])


def test_every_name_of_the_recipe_has_a_schedule():
    assert set(get_args(LrSchedulerConfig.model_fields["name"].annotation)) == set(SCHEDULES)
