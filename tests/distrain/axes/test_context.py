"""Columns cut over ranks: the same losses, norms and validations as in one process."""

from dataclasses import replace

import pytest

from distrain.parallel.context.stripes import Stripes
from tests.distrain.axes.families import EVERY_FAMILY, OURS
from tests.distrain.axes.harness import (
    Case,
    assert_as_alone,
    differences,
    reference,
    run_over,
)

TWO, FOUR = {"context_parallel": 2}, {"context_parallel": 4}
BOTH = {"context_parallel": 2, "data_parallel_shard": 2}


def take_oneself_for_the_first():
    """Every rank computes the stripes of the first one."""
    real = Stripes.numbers
    Stripes.numbers = lambda stripes, n: real(  # type: ignore[method-assign,assignment]
        replace(stripes, place=0), n
    )


def test_two_ranks_share_the_columns_of_rows(tmp_path):
    cases = {"two": Case(OURS, TWO, steps=4)}
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_every_family(tmp_path, family):
    two = {"two": Case(family, TWO)}
    four = {"four": Case(family, FOUR), "both": Case(family, BOTH)}
    found = run_over(tmp_path, two) | run_over(tmp_path, four)
    assert_as_alone(two | four, found)


@pytest.mark.axes
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_stripe_out_of_place_is_seen(tmp_path, family):
    case = Case(family, TWO, steps=3)
    found = run_over(tmp_path, {"moved": case}, take_oneself_for_the_first)["moved"]
    losses, _, _ = differences(found, reference(case))
    assert losses > 1e-3
