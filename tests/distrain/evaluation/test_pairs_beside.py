"""Pairs beside the base: figures by hand, and what a sentence makes of them."""

import numpy as np
import pytest

from distrain.evaluation.pairs import compare_pairs
from distrain.runs.conclusion import conclude_all, conclude_pairs

PAIRS = 60
BETA = 0.1


def made(shift, noise=1.0):
    """Log-probabilities of a base that cannot tell, and of a model that prefers by ``shift``."""
    dice = np.random.default_rng(3)
    base = dice.normal(-20, 3, (PAIRS, 2))
    model = base + dice.normal(0, noise, (PAIRS, 2)) + np.array([shift / 2, -shift / 2])
    return model, base


def test_figures_are_those_of_the_pairs():
    model, base = made(4.0)
    found = compare_pairs(model, base, BETA, seed=1)
    margins = BETA * ((model - base)[:, 0] - (model - base)[:, 1])
    assert found["reward_margin"]["value"] == pytest.approx(margins.mean())
    assert found["reward_accuracy"]["value"] == pytest.approx((margins > 0).mean())
    assert found["chosen_likelier_base"]["value"] == pytest.approx((base[:, 0] > base[:, 1]).mean())
    dice = np.random.default_rng(1)  # the draws of that seed, pair by pair
    spread = [margins[dice.integers(0, PAIRS, PAIRS)].mean() for _ in range(2000)]
    low, high = np.percentile(spread, [2.5, 97.5])
    assert (found["reward_margin"]["low"], found["reward_margin"]["high"]) == pytest.approx(
        (low, high), abs=1e-9
    )
    gain = found["chosen_likelier_gain"]
    both = found["chosen_likelier"]["value"] - found["chosen_likelier_base"]["value"]
    assert gain["value"] == pytest.approx(both)
    assert gain["low"] > 0


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (4.0, "it prefers the chosen answers more than its base does, by 0."),
        (-4.0, "it prefers the rejected answers more than its base does, by 0."),
        (0.0, "what it prefers more than its base is within noise, "),
    ],
)
def test_what_follows_is_said(shift, said):
    model, base = made(shift)
    intervals = compare_pairs(model, base, BETA, seed=1)
    text = conclude_pairs({"intervals": intervals})
    assert text is not None
    assert text.startswith(f"60 pairs: {said}")
    assert conclude_all({"preferences": {"intervals": intervals}}, "nats") == (text,)
    ends = {4.0: ": more often", -4.0: ": less often", 0.0: ": the difference is within noise"}
    assert text.endswith(ends[shift])


def test_of_few_pairs_or_of_an_older_record_nothing_is_said():
    model, base = made(4.0)
    few = compare_pairs(model[:29], base[:29], BETA, seed=1)
    assert conclude_pairs({"intervals": few}) == "29 pairs: too few to say, at least 30 are needed"
    for record in ({}, {"intervals": 3}, {"intervals": {"examples": 40}}, {"reward_margin": 2.0}):
        assert conclude_pairs(record) is None
