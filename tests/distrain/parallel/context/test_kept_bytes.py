"""What a rank keeps of a forward pass for the backward pass, where columns are cut."""

import pytest
import torch

from distrain.models import build_model
from distrain.models.transformers.interface import register
from tests.distrain.axes.families import EVERY_FAMILY, OURS, model_section
from tests.distrain.parallel.context.forwards import cut_over_all, packed_batch
from tests.ranks import run_ranks

AT_MOST = 0.30
"""Of what one process keeps. A quarter is this rank's; keys and values are those of all columns."""


def kept_bytes(module, batch):
    """Sum what autograd keeps, each storage once and no parameter."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # Held until it is counted: what is freed would lend its address to the next tensor.
        out = module(
            batch.input_ids,
            target_ids=batch.target_ids,
            documents=batch.documents,
            rows=(len(batch.input_ids),),
        )
    total = sum(size for address, size in kept.items() if address not in parameters)
    assert out.requires_grad
    return total


def compare(family):
    register()
    for length in (96, 224):
        half = length // 2
        rows = ((5, 1, length - 6), (length,), (half, 20, half - 20), (length - 9, 9))
        batch = packed_batch(rows)
        model = build_model(model_section(family), 120)
        alone = kept_bytes(model, batch)
        forward = cut_over_all(model)
        assert kept_bytes(model, batch) <= AT_MOST * alone, f"{family}, {length}"
        with forward.uncut():
            assert kept_bytes(model, batch) > 0.99 * alone


@pytest.mark.axes
@pytest.mark.parametrize("family", [OURS, "gemma2", "gpt2", "mixtral"])
def test_a_rank_of_four_keeps_three_tenths_at_most(tmp_path, family):
    assert family in EVERY_FAMILY
    run_ranks(tmp_path, 4, compare, family)
