import numpy as np
import pytest

from distrain.evaluation.bootstrap import ExampleSums, paired_intervals

GAIN = {"gain": {"base": 1, "tuned": -1}}


def made(rng, count, *, gain=0.1, is_paired=True):
    """Examples of very different length and difficulty; a token gains ``gain`` on average."""
    counts = rng.integers(5, 60, count).astype(np.float64)
    hard = rng.normal(2.0, 0.8, count)
    own = hard if is_paired else rng.normal(2.0, 0.8, count)
    base = counts * (hard + rng.normal(0, 0.1, count))
    tuned = counts * (own - gain + rng.normal(0, 0.1, count))
    return {"base": ExampleSums(base, counts), "tuned": ExampleSums(tuned, counts)}


def coverage(count, **made_with):
    rng = np.random.default_rng(3)
    found = [
        paired_intervals(made(rng, count, **made_with), GAIN, seed=n, draws=400)["gain"]
        for n in range(400)
    ]
    return np.mean([each.low <= 0.1 <= each.high for each in found])


@pytest.mark.parametrize("count", [30, 100])
def test_intervals_hold_the_truth_nearly_as_often_as_they_say(count):
    assert 0.90 <= coverage(count) <= 0.98


def test_what_is_hard_for_both_cancels_out():
    rng = np.random.default_rng(0)
    paired = paired_intervals(made(rng, 100), GAIN)["gain"]
    # The control: the same spread of losses, but of other examples for each model.
    apart = paired_intervals(made(rng, 100, is_paired=False), GAIN)["gain"]
    assert paired.low > 0
    assert apart.high - apart.low > 4 * (paired.high - paired.low)


def test_figures_are_ratios_of_sums_and_follow_from_the_seed_alone():
    two = {
        "base": ExampleSums(np.array([1.0, 8.0]), np.array([1.0, 4.0])),
        "tuned": ExampleSums(np.array([1.0, 4.0]), np.array([1.0, 4.0])),
    }
    found = paired_intervals(two, GAIN | {"sum": {"base": 1, "tuned": 1}}, seed=5)
    assert two["base"].ratio == 9 / 5  # not the mean of 1 and 2
    assert found["gain"].value == pytest.approx(4 / 5)
    assert found["sum"].value == pytest.approx(14 / 5)
    # Of two examples: one of them twice, or both.
    assert (found["gain"].low, found["gain"].high) == (0.0, 1.0)
    assert found == paired_intervals(two, GAIN | {"sum": {"base": 1, "tuned": 1}}, seed=5)
    many = made(np.random.default_rng(0), 50)
    assert paired_intervals(many, GAIN, seed=1) == paired_intervals(many, GAIN, seed=1)
    assert paired_intervals(many, GAIN, seed=1) != paired_intervals(many, GAIN, seed=2)


def test_draws_in_parts_are_those_in_one_piece(monkeypatch):
    many = made(np.random.default_rng(0), 50)
    whole = paired_intervals(many, GAIN)
    monkeypatch.setattr("distrain.evaluation.bootstrap.CELLS_AT_ONCE", 130)
    assert paired_intervals(many, GAIN)["gain"].low == pytest.approx(whole["gain"].low)


def test_examples_that_do_not_belong_together_are_refused():
    one, two = (ExampleSums(np.ones(n), np.ones(n)) for n in (1, 2))
    with pytest.raises(ValueError, match=r"figures of \[1, 2\] examples"):
        paired_intervals({"base": one, "tuned": two}, GAIN)
    with pytest.raises(ValueError, match="a count above 0"):
        paired_intervals({"base": ExampleSums(np.ones(2), np.zeros(2)), "tuned": two}, GAIN)
