from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from distrain.models.attention import (
    AttentionPlan,
    DocumentLayout,
    attend,
    document_mask,
    plan_attention,
    undivided,
)
from tests.distrain.models.layouts import layout_of

LENGTHS = ((5, 1, 9), (15,), (2, 13))


def packed():
    """Three rows of 15 tokens, divided into documents of ``LENGTHS``."""
    ends = torch.tensor([0, *(length for row in LENGTHS for length in row)]).cumsum(0)
    positions = [torch.cat([torch.arange(length) for length in row]) for row in LENGTHS]
    return DocumentLayout(ends.int(), torch.stack(positions))


def heads(rows, length, dtype=torch.float64, num_kv_heads=4):
    dice = torch.Generator().manual_seed(length)
    return [
        torch.randn(rows, number, length, 8, generator=dice, dtype=dtype).requires_grad_()
        for number in (4, num_kv_heads, num_kv_heads)
    ]


def test_documents_are_numbered_from_where_they_begin():
    expected = [[0] * 5 + [1] + [2] * 9, [3] * 15, [4] * 2 + [5] * 13]
    assert packed().document_ids().tolist() == expected
    assert undivided(torch.zeros(2, 4)).document_ids().tolist() == [[0] * 4, [1] * 4]
    assert undivided(torch.zeros(2, 4)).position_ids.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_each_document_attends_as_if_it_were_alone(num_kv_heads):
    q, k, v = heads(3, 15, num_kv_heads=num_kv_heads)
    found = attend(q, k, v, plan_attention(packed()))
    alone = AttentionPlan(None)
    for row, lengths in enumerate(LENGTHS):
        queries, keys, values = (part[row : row + 1].split(lengths, dim=2) for part in (q, k, v))
        pieces = [
            attend(query, key, value, alone)
            for query, key, value in zip(queries, keys, values, strict=True)
        ]
        expected = torch.cat(pieces, dim=2)
        torch.testing.assert_close(found[row : row + 1], expected, rtol=0, atol=1e-12)
    whole = attend(q, k, v, alone)
    assert (whole - found).abs().max() > 1e-2  # without a mask the neighbours are seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 24, 64, 200])
def test_undivided_rows_need_no_mask_and_give_the_same_bits(length, dtype):
    """So the choice of the kernel moves no loss, however rows are put into microbatches."""
    documents = undivided(torch.zeros(3, length))
    plan = plan_attention(documents)
    assert plan.mask is None
    masked = AttentionPlan(document_mask(documents.document_ids()))
    inputs = q, k, v = heads(3, length, dtype)
    results = []
    for choice in (plan, masked):
        output = attend(q, k, v, choice)
        results.append((output, *torch.autograd.grad(output.float().square().sum(), inputs)))
    for without, with_mask in zip(*results, strict=True):
        assert torch.equal(without, with_mask)


def test_one_divided_row_is_enough_for_a_mask():
    documents = layout_of(torch.tensor([[0] * 8, [1] * 4 + [2] * 4]))
    assert not documents.has_one_document_a_row
    plan = plan_attention(documents)
    assert plan.mask is not None
    assert not plan.mask[1, 0, 4:, :4].any()


def test_a_layout_survives_what_engines_do_with_inputs():
    """FSDP2 rebuilds dataclasses and casts what is of floating point; integers stay."""
    from torch.distributed.utils import _apply_to_tensors

    documents = packed()
    cast = _apply_to_tensors(lambda x: x.bfloat16() if x.is_floating_point() else x, documents)
    assert isinstance(cast, DocumentLayout)
    assert cast.cu_seqlens is documents.cu_seqlens
    assert cast.position_ids is documents.position_ids
    with_floats = replace(documents, position_ids=documents.position_ids.double())
    cast = _apply_to_tensors(lambda x: x.bfloat16() if x.is_floating_point() else x, with_floats)
    assert cast.position_ids.dtype == torch.bfloat16  # so positions must not be fractions


def test_scores_are_those_of_plain_scaled_dot_product_attention():
    q, k, v = heads(2, 10)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.equal(attend(q, k, v, AttentionPlan(None)), expected)
