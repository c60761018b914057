"""Models cut over the tensor axis alone: losses and every gradient against the whole model."""

import copy

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate

from distrain.config.models.tensor_plan import TENSOR_STYLES, plan_of
from distrain.errors import RecipeError
from distrain.models import build_model
from distrain.parallel.tensor import cut_tensors, parameters, require_plan
from distrain.parallel.tensor.assignment import PlannedModel
from distrain.parallel.tensor.peers import TensorPeers
from distrain.parallel.tensor.styles import STYLES
from tests.distrain.axes.families import EVERY_FAMILY, OURS, model_section
from tests.distrain.parallel.tensor.cut_models import (
    REACH,
    TIED,
    VOCAB,
    differing,
    losses_of,
    whole_model,
)
from tests.ranks import run_ranks


def compare(families, more, is_cut):
    mesh = init_device_mesh("cpu", (2,))
    for family in families:
        whole = whole_model(family, **more)
        model = copy.deepcopy(whole)
        cut_tensors(model, mesh, plan_of(model.model_config, {}), sequence_parallel=is_cut)
        reach = REACH.get(family, 1e-9)
        for length in (48, 47):  # one of which divides by no number of ranks
            expected, found = losses_of(whole, length), losses_of(model, length)
            for losses in (expected, found):
                losses.square().sum().backward()
            torch.testing.assert_close(found, expected, rtol=reach, atol=reach)
            wrong = differing(model, whole, reach)
            assert not wrong, (family, length, is_cut, wrong)
        require_same_scores(model, whole, reach)
        parts = [p for p in model.parameters() if not isinstance(p.placements[0], Replicate)]
        assert sum(p.numel() for p in parts) > 0.9 * sum(p.numel() for p in model.parameters())


@torch.no_grad()
def require_same_scores(model, whole, reach):
    """Of all positions at once, and of a text that grows."""
    ids = torch.randint(VOCAB, (2, 6), generator=torch.Generator().manual_seed(4))
    expected = whole.eval()(ids)
    torch.testing.assert_close(model.eval()(ids), expected, rtol=reach, atol=reach)
    cache = model.new_cache()
    for start, stop in ((0, 4), (4, 5), (5, 6)):
        found = model.next_scores(ids[:, start:stop], cache)
        torch.testing.assert_close(found, expected[:, stop - 1], rtol=reach, atol=reach)


def spoil_gradients(breaks):
    """Break something, and name the parameters whose gradient is wrong for it."""
    owner, name, broken = breaks
    setattr(owner, name, broken)
    whole = whole_model(OURS, **TIED)
    model = copy.deepcopy(whole)
    mesh = init_device_mesh("cpu", (2,))
    cut_tensors(model, mesh, plan_of(model.model_config, {}), sequence_parallel=True)
    for losses in (losses_of(whole), losses_of(model)):
        losses.square().sum().backward()
    return differing(model, whole, 1e-3)


def compare_and_break(families, more):
    for is_cut in (False, True):
        compare(families, more, is_cut)
    honest = parameters.read_summand
    # Norms see their rank's positions only: without the sum, half of their gradient is missing.
    wrong = spoil_gradients((parameters, "read_summand", parameters.read_whole_gradient))
    assert len(wrong) == 8
    assert all("layernorm" in name for name in wrong)
    parameters.read_summand = honest
    wrong = spoil_gradients((TensorPeers, "copied", lambda self, whole: whole))
    assert any("layernorm" in name for name in wrong)  # what the output layer's parts add up to


def test_a_tied_model_of_an_odd_vocabulary_has_the_gradients_of_the_whole(tmp_path):
    run_ranks(tmp_path, 2, compare_and_break, [OURS], TIED)


@pytest.mark.axes
@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("more", [{}, TIED], ids=["untied", "tied"])
def test_every_family_has_the_gradients_of_the_whole(tmp_path, is_cut, more):
    run_ranks(tmp_path, 2, compare, EVERY_FAMILY, more, is_cut)


def plan_for_three(family):
    model = build_model(model_section(family), VOCAB)
    planned = PlannedModel(model, plan_of(model.model_config, {}), 3)
    planned.cuts()
    planned.divide_counts(0)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (OURS, r"3, for .*self_attn of 4 \(num_heads\)"),
        pytest.param("phi3", r"3, for .*weight of 64", marks=pytest.mark.axes),
    ],
)
def test_heads_that_do_not_divide_are_refused(family, message):
    with pytest.raises(RecipeError, match=message):
        plan_for_three(family)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({}, "nothing, for a family that does not say"),
        ({"layers.*.mlp.up_proj": "sideways"}, "the style sideways.*colwise, rowwise"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(plan, message):
    with pytest.raises(RecipeError, match=message):
        require_plan(plan)


def test_every_style_of_a_plan_is_known_to_the_cut():
    assert STYLES.keys() == TENSOR_STYLES.keys()
