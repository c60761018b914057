"""Forward and backward passes over columns of several ranks, summed up, are those of one."""

from dataclasses import replace
from typing import cast
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from distrain.config.layout import Axis, Layout
from distrain.errors import RecipeError
from distrain.models import build_model
from distrain.models.transformers.interface import register
from distrain.parallel.collectives import HostGroup
from distrain.parallel.context.cut import cut_columns
from distrain.parallel.context.forward import cut_over
from distrain.parallel.context.gathering import StripeGathering
from distrain.parallel.context.probe import require_equal_over_columns
from distrain.parallel.context.stripes import Stripes
from distrain.parallel.model_spec import ModelSpec
from distrain.parallel.ranks import Ranks
from distrain.parallel.recomputation import recompute_blocks
from tests.distrain.models.transformers.families import FAMILIES, VOCAB_SIZE, section
from tests.distrain.parallel.context.forwards import (
    both,
    close,
    compare_family,
    cut_model,
    losses_and_gradients,
    model_of,
    packed_batch,
    summed,
    world,
)
from tests.ranks import run_ranks

REPRESENTATIVE = "gemma2"
"""Windows, soft caps, groups of heads, and a tied table."""


def compare_and_see_more(family):
    compare_and_see_a_stripe_out_of_place(family)
    see_logits(family)
    see_hits(family)
    see_groups_of_heads_and_blocks_computed_again(family)
    see_what_is_refused(family)
    see_angles_that_depend_on_the_length_refused()


def compare_and_see_a_stripe_out_of_place(family):
    compare_family(family)
    see_a_stripe_out_of_place(family)


def see_logits(family):
    batch, model, cut = packed_batch(), model_of(family), cut_model(family)
    places = torch.tensor([3, 64, 66, 130])
    with torch.no_grad():
        for way in ({}, {"places": places}, {"places": places[:1]}):
            found = cut(batch.input_ids, documents=batch.documents, **way)
            expected = model(batch.input_ids, documents=batch.documents, **way)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        ids = batch.input_ids[:1]
        torch.testing.assert_close(cut(ids), model(ids), rtol=0, atol=1e-4)
        with cut.forward.uncut():
            assert cut(ids).equal(model(ids))


def see_hits(family):
    batch, model, cut = packed_batch(), model_of(family), cut_model(family)
    asked = {"target_ids": batch.target_ids, "documents": batch.documents, "with_hits": True}
    places = torch.tensor([3, 64, 66, 130])
    with torch.no_grad():
        for way in ({}, {"rows": (1, 2)}, {"places": places}, {"places": places, "rows": (1, 3)}):
            found = summed([cut(batch.input_ids, **asked, **way)])[0]
            expected = model(batch.input_ids, **asked, **way)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def see_groups_of_heads_and_blocks_computed_again(family):
    """Collectives of the backward pass come in the same order on all ranks."""
    whole, cut = model_of(family).train(), model_of(family).train()
    recompute_blocks(cut, cut.block_classes, 1)
    stripes = Stripes(dist.get_world_size(), dist.get_rank())
    cut_over(cut, world(), stripes)
    forward = cut.forward
    forward._gathering = replace(forward._gathering, most_parts=2)
    assert StripeGathering(world(), stripes, 4).parts(6) == 3
    batch = packed_batch()
    found = summed(losses_and_gradients(cut, cut, batch, rows=(3,)))
    assert close(found, losses_and_gradients(whole, whole, batch, rows=(3,)))


def see_a_stripe_out_of_place(family):
    """The comparison is one that a rank which takes itself for another does not pass."""
    real = Stripes.numbers
    with patch.object(Stripes, "numbers", lambda stripes, n: real(replace(stripes, place=0), n)):
        found, expected = both(family, packed_batch(), rows=(3,))
    assert not close(found, expected)
    assert abs(found[0] - expected[0]).max() > 1e-4 * expected[0].max()


def see_what_is_refused(family):
    cut = cut_model(family)
    require_equal_over_columns(cut, cut.forward, VOCAB_SIZE, cut.input_device)
    block = next(child for child in cut.modules() if isinstance(child, cut.block_classes))
    forward = block.forward

    def mixed(x, *rest, **more):
        before = torch.cat([x[:, :1], x[:, :-1]], dim=1)
        return forward(x + 0.5 * before, *rest, **more)

    block.forward = mixed  # as a convolution over two positions does
    with pytest.raises(RecipeError, match="positions meet outside of attention"):
        require_equal_over_columns(cut, cut.forward, VOCAB_SIZE, cut.input_device)


def see_angles_that_depend_on_the_length_refused():
    layout = Layout("fsdp", 3, 1, 1, inner=(Axis("context", dist.get_world_size(), "columns"),))
    ranks = Ranks(layout, HostGroup())
    spec = cast(ModelSpec, None)  # of which it needs nothing
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = build_model(section("llama-2", rope_parameters=dynamic), VOCAB_SIZE)
    with pytest.raises(RecipeError, match="how long a document is"):
        cut_columns(model, ranks, spec)
    cut_columns(build_model(section("llama-3.1"), VOCAB_SIZE), ranks, spec)


def test_a_family_over_two_ranks(tmp_path):
    register()
    run_ranks(tmp_path, 2, compare_and_see_more, REPRESENTATIVE)


@pytest.mark.axes
@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family(tmp_path, family, num_ranks):
    run_ranks(tmp_path, num_ranks, compare_and_see_a_stripe_out_of_place, family)
