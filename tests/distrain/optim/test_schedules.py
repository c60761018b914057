import math
from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from distrain.config.schedules import (
    SCHEDULE_SECTIONS,
    ConstantLrConfig,
    CosineLrConfig,
    CosineRestartsLrConfig,
    CyclicalLrConfig,
    ExponentialLrConfig,
    InverseSqrtLrConfig,
    LinearLrConfig,
    OneCycleLrConfig,
    PolynomialLrConfig,
    StepLrConfig,
    WsdLrConfig,
)
from distrain.optim.schedules import SCHEDULES, lr_at

PEAK = 1e-3
common = {"warmup_steps": st.integers(0, 40), "min_lr_ratio": st.floats(0, 1)}
floored = common | {"min_lr_ratio": st.floats(0.01, 1)}
tails = st.sampled_from(["linear", "cosine", "sqrt"])
wsds = st.builds(WsdLrConfig, decay=tails, decay_steps=st.none() | st.integers(1, 200), **common)
falling = st.one_of(
    wsds,
    st.builds(CosineLrConfig, **common),
    st.builds(LinearLrConfig, **common),
    st.builds(PolynomialLrConfig, power=st.floats(0.1, 4), **common),
    st.builds(ExponentialLrConfig, **floored),
)
never_rising = falling | st.one_of(
    st.builds(ConstantLrConfig, **common),
    st.builds(InverseSqrtLrConfig, warmup_steps=common["warmup_steps"]),
    st.builds(StepLrConfig, warmup_steps=common["warmup_steps"], step_size=st.integers(1, 50)),
)
every = never_rising | st.one_of(
    st.builds(CosineRestartsLrConfig, cycle_mult=st.integers(1, 3), **common),
    st.builds(CyclicalLrConfig, mode=st.sampled_from(["triangular", "triangular2"]), **common),
    st.builds(OneCycleLrConfig, pct_start=st.floats(0.01, 0.99)),
)


def rates(total_steps, config):
    return [lr_at(step, total_steps, PEAK, config) for step in range(total_steps)]


@settings(deadline=None)
@given(never_rising, st.integers(1, 120))
def test_rises_to_the_peak_then_never_rises_again(config, total_steps):
    values = rates(total_steps, config)
    warmup, rest = values[: config.warmup_steps], values[config.warmup_steps :]
    assert all(0 < rate < PEAK for rate in warmup)
    assert warmup == sorted(warmup)
    # But for rounding, where the minimum is the peak but for a bit.
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(rest))


@settings(deadline=None)
@given(every, st.integers(1, 120))
def test_never_leaves_its_bounds(config, total_steps):
    has_floor = config.name not in ("inverse_sqrt", "step", "one_cycle")
    low = PEAK * config.min_lr_ratio if has_floor else 0
    after = rates(total_steps, config)[config.warmup_steps :]
    assert all(low * (1 - 1e-9) <= rate <= PEAK * (1 + 1e-9) for rate in after)


@settings(deadline=None)
@given(falling, st.integers(42, 120))
def test_last_update_has_the_minimum(config, total_steps):
    last = lr_at(total_steps - 1, total_steps, PEAK, config)
    assert last == pytest.approx(PEAK * config.min_lr_ratio, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(every, st.integers(1, 120), st.integers(0, 50))
def test_steps_past_the_end_keep_the_last_rate(config, total_steps, extra):
    if config.warmup_steps >= total_steps:
        return
    last = lr_at(total_steps - 1, total_steps, PEAK, config)
    assert lr_at(total_steps + extra, total_steps, PEAK, config) == last


def test_first_update_after_warmup_has_the_whole_peak():
    for name in SCHEDULES.keys() - {"cyclical", "one_cycle"}:  # which begin with their minimum
        config = SCHEDULE_SECTIONS[name](name=name, warmup_steps=4)
        assert lr_at(4, 100, PEAK, config) == PEAK
        assert rates(100, config)[:4] == pytest.approx([PEAK * k / 5 for k in (1, 2, 3, 4)])


def test_cosine_is_halfway_down_in_the_middle():
    assert lr_at(50, 101, PEAK, CosineLrConfig(min_lr_ratio=0.2)) == pytest.approx(PEAK * 0.6)


def test_wsd_stays_until_the_last_tenth_then_falls_in_equal_steps():
    values = rates(100, WsdLrConfig(min_lr_ratio=0.0))
    assert values[:90] == [PEAK] * 90
    assert values[90:] == pytest.approx([PEAK * k / 10 for k in range(9, -1, -1)])


def test_tails_of_wsd_are_those_of_their_papers():
    shares = [k / 10 for k in range(1, 11)]
    for decay, tail in (
        ("sqrt", lambda share: 1 - math.sqrt(share)),
        ("cosine", lambda share: (1 + math.cos(math.pi * share)) / 2),
    ):
        values = rates(100, WsdLrConfig.model_validate({"min_lr_ratio": 0.1, "decay": decay}))
        expected = [PEAK * (0.1 + 0.9 * tail(share)) for share in shares]
        assert values[90:] == pytest.approx(expected)


def test_every_name_of_the_recipe_has_a_schedule():
    assert SCHEDULE_SECTIONS.keys() == SCHEDULES.keys()
    for name, section in SCHEDULE_SECTIONS.items():
        assert get_args(section.model_fields["name"].annotation) == (name,)


@pytest.mark.parametrize(
    ("ratio", "steps"), [(0.0, 0), (0.1, 10), (0.101, 11), (0.07, 7), (1, 100)]
)
def test_warmup_as_a_share_is_rounded_up(ratio, steps):
    by_ratio = CosineLrConfig(warmup_ratio=ratio)
    assert by_ratio.warmup(100) == steps
    assert rates(100, by_ratio) == rates(100, CosineLrConfig(warmup_steps=steps))


def test_warmup_is_said_in_one_way():
    with pytest.raises(ValidationError, match="at most one of warmup_steps and warmup_ratio"):
        CosineLrConfig(warmup_steps=3, warmup_ratio=0.1)
    CosineLrConfig(warmup_steps=0, warmup_ratio=0.1)  # as a resolved recipe says it


def followed(make, steps):
    """The factors of a scheduler of torch or transformers, from its first step on."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def torch_references():
    lr = torch.optim.lr_scheduler
    restarts = CosineRestartsLrConfig(cycle_steps=7, cycle_mult=2, min_lr_ratio=0.2)
    triangles = CyclicalLrConfig(cycle_steps=10, mode="triangular2", min_lr_ratio=0.1)
    yield LinearLrConfig(), lambda o: lr.LinearLR(o, 1.0, 0.0, total_iters=59)
    yield PolynomialLrConfig(power=3), lambda o: lr.PolynomialLR(o, total_iters=59, power=3)
    yield CosineLrConfig(min_lr_ratio=0.2), lambda o: lr.CosineAnnealingLR(o, 59, eta_min=0.2)
    yield StepLrConfig(step_size=9, gamma=0.3), lambda o: lr.StepLR(o, 9, gamma=0.3)
    yield ExponentialLrConfig(), lambda o: lr.ExponentialLR(o, 0.1 ** (1 / 59))
    yield (restarts, lambda o: lr.CosineAnnealingWarmRestarts(o, 7, T_mult=2, eta_min=0.2))
    yield (
        triangles,
        lambda o: lr.CyclicLR(
            o, 0.1, 1.0, step_size_up=5, mode="triangular2", cycle_momentum=False
        ),
    )
    for anneal, torchs in (("cosine", "cos"), ("linear", "linear")):
        yield (
            OneCycleLrConfig.model_validate({"pct_start": 0.4, "anneal": anneal}),
            lambda o, way=torchs: lr.OneCycleLR(
                o, 1.0, total_steps=60, pct_start=0.4, anneal_strategy=way, cycle_momentum=False
            ),
        )


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_schedules_are_those_of_torch_point_by_point():
    for config, make in torch_references():
        ours = [lr_at(step, 60, 1.0, config) for step in range(60)]
        assert ours == pytest.approx(followed(make, 60), rel=1e-9, abs=1e-9), config
        shifted = [lr_at(step + 1, 60, 1.0, config) for step in range(60)]
        assert shifted != pytest.approx(ours, rel=1e-6), config


@pytest.mark.models  # transformers takes seconds to import
def test_schedules_are_those_of_transformers_after_warmup():
    from transformers import optimization as hf

    length, warmup = 60, 8
    references = {
        "linear": hf.get_linear_schedule_with_warmup,
        "polynomial": lambda o, w, n: hf.get_polynomial_decay_schedule_with_warmup(
            o, w, n, lr_end=0.0, power=2.0
        ),
        "inverse_sqrt": lambda o, w, n: hf.get_inverse_sqrt_schedule(o, w),
        "cosine": lambda o, w, n: hf.get_cosine_with_min_lr_schedule_with_warmup(
            o, w, n, min_lr_rate=0.1
        ),
    }
    for name, make in references.items():
        config = SCHEDULE_SECTIONS[name](name=name, warmup_steps=warmup)
        ours = [lr_at(step, length, 1.0, config) for step in range(length)]
        theirs = followed(lambda o, make=make: make(o, warmup, length - 1), length)
        assert ours[warmup:] == pytest.approx(theirs[warmup:], rel=1e-9, abs=1e-9), name
        assert ours[1:warmup] != pytest.approx(theirs[1:warmup], rel=1e-6)  # theirs begins with 0
