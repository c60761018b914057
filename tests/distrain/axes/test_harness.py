"""The harness of the axes tells a layout that is right from one that is not.

FSDP2 has been there before the axes, so it is what the harness itself is held against.
"""

from dataclasses import replace

import pytest

import distrain.parallel.engines.fsdp as engine
from tests.distrain.axes.families import FAMILIES, OURS
from tests.distrain.axes.harness import (
    Case,
    Outcome,
    assert_as_alone,
    differences,
    reference,
    run_over,
)

pytestmark = pytest.mark.axes
COUNTED = [450, 512, 450, 1024]
SHARDS = {"data_parallel_shard": 2}


def count_one_gradient_twice():
    """Let the last gradient enter the norm as if another rank held it too."""
    honest = engine.FsdpEngine._grad_norm

    def doubled(self, gradients):
        return (honest(self, gradients).square() + gradients[-1].square().sum()).sqrt()

    engine.FsdpEngine._grad_norm = doubled  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "wrong",
    [{"counted": [450, 512, 451, 1024]}, {"accuracies": [0.0, 0.5]}, {"bits": [3.0, 2.5]}],
    ids=str,
)
def test_what_is_derived_and_counted_is_compared(wrong):
    right = Outcome([6.0, 5.0], [1.0, 1.0], [6.0, 5.0], [3.0, 2.4], [0.0, 0.1], COUNTED, "", "")
    assert differences(right, right) == (0, 0, 0)
    found = replace(right, **wrong)
    if "bits" in wrong:
        assert differences(found, right)[2] > 0.09
    else:
        with pytest.raises(AssertionError):
            differences(found, right)


def test_every_family_is_as_in_one_process(tmp_path):
    cases = {name: Case(name, SHARDS) for name in FAMILIES}
    assert_as_alone(cases, run_over(tmp_path, cases))


def test_in_float64_hardly_anything_is_rounded(tmp_path):
    cases = {name: Case(name, SHARDS, steps=6, precision="fp64") for name in (OURS, "gpt2")}
    assert_as_alone(cases, run_over(tmp_path, cases))


def test_a_norm_that_is_wrong_shows(tmp_path):
    cases = {"spoiled": Case("gpt2", SHARDS, steps=6)}
    found = run_over(tmp_path, cases, count_one_gradient_twice)
    losses, norms, _ = differences(found["spoiled"], reference(cases["spoiled"]))
    assert norms > 1e-3
    assert losses > 1e-5
    with pytest.raises(AssertionError, match="spoiled differs by"):
        assert_as_alone(cases, found)
