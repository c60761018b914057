"""The harness of the axes tells a layout that is right from one that is not.

FSDP2 has been there before the axes, so it is what the harness itself is held against.
"""

import pytest

import distrain.parallel.engines.fsdp as engine
from tests.distrain.axes.families import FAMILIES, OURS
from tests.distrain.axes.harness import Case, assert_as_alone, differences, reference, run_over

pytestmark = pytest.mark.axes
SHARDS = {"data_parallel_shard": 2}


def count_one_gradient_twice():
    """Let the last gradient enter the norm as if another rank held it too."""
    honest = engine.FsdpEngine._grad_norm

    def doubled(self, gradients):
        return (honest(self, gradients).square() + gradients[-1].square().sum()).sqrt()

    engine.FsdpEngine._grad_norm = doubled  # type: ignore[method-assign]


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
