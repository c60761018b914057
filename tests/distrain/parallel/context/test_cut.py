"""Forward and backward passes over columns of several ranks, summed up, are those of one."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from distrain.models.transformers.interface import register
from distrain.parallel.context.cut import cut_over, without_cut
from distrain.parallel.context.gathering import StripeGathering
from distrain.parallel.context.stripes import Stripes
from distrain.parallel.recomputation import recompute_blocks
from tests.distrain.models.transformers.families import FAMILIES
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
        assert without_cut(cut)(ids).equal(model(ids))


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


def test_a_family_over_two_ranks(tmp_path):
    register()
    run_ranks(tmp_path, 2, compare_and_see_more, REPRESENTATIVE)


@pytest.mark.axes
@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family(tmp_path, family, num_ranks):
    run_ranks(tmp_path, num_ranks, compare_and_see_a_stripe_out_of_place, family)
