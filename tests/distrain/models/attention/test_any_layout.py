"""Layouts as they come: what must hold for all of them."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.models.attention import AttentionRule, attend, plan_attention
from tests.distrain.models.attention.comparing import (
    EACH,
    SINKS,
    assert_close,
    both_ways,
    heads,
    results,
    shown,
)
from tests.distrain.models.layouts import layout_of_lengths


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 180), min_size=1, max_size=6), min_size=1, max_size=3),
    window=st.one_of(st.none(), st.integers(1, 200)),
    softcap=st.sampled_from([None, 0.7]),
    sinks=st.booleans(),
    num_kv_heads=st.sampled_from([1, 2, 4]),
)
def test_any_layout_equals_the_whole_softmax(lengths, window, softcap, sinks, num_kv_heads):
    longest = max(sum(row) for row in lengths)
    padded = [row + [longest - sum(row)] * (sum(row) < longest) for row in lengths]
    rule = AttentionRule(None, window, softcap, torch.tensor(SINKS) if sinks else None)
    found, expected = both_ways(layout_of_lengths(padded), rule, num_kv_heads=num_kv_heads)
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("rule", EACH, ids=shown)
def test_what_a_neighbour_says_moves_nothing(rule):
    """Bitwise, be it no number at all."""
    documents = layout_of_lengths(((150, 6, 7, 137), (5, 295)))
    plan = plan_attention(documents)
    inputs = heads(2, 300)
    others = torch.ones(2, 300, dtype=torch.bool)
    others[0, 150:156] = False
    found = []
    for value in (None, 3.0, torch.nan):
        changed = [x.detach().clone() for x in inputs]
        for x in changed:
            if value is not None:
                x[0, :, 150:156] = value
        changed = [x.requires_grad_() for x in changed]
        q, k, v = changed
        found.append(results(partial(attend, q, k, v, plan, rule), changed))
    for first, second, third in zip(*found, strict=True):
        first, second, third = (x.transpose(1, 2) for x in (first, second, third))
        assert torch.equal(first[others], second[others])
        assert torch.equal(first[others], third[others])
        assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("own", "beside"), [(40, (88,)), (40, (3, 5, 80)), (150, (7, 50, 130))])
def test_a_document_has_the_same_bits_whatever_lies_beside_it(dtype, own, beside):
    """So the cut of a batch into microbatches moves none where rows are divided in all."""
    found = []
    for lengths in ((own, 60), (own, *beside)):
        total = sum(lengths)
        values = [torch.zeros(1, heads, total, 8, dtype=dtype) for heads in (4, 2, 2)]
        for number, (x, drawn) in enumerate(
            zip(values, heads(1, own, num_kv_heads=2), strict=True)
        ):
            x[:, :, :own] = drawn.detach().to(dtype)
            x[:, :, own:] = number - 0.5
        q, k, v = inputs = [x.requires_grad_() for x in values]
        plan = plan_attention(layout_of_lengths((lengths,)))
        output = attend(q, k, v, plan)
        grads = torch.autograd.grad(output[:, :, :own].float().square().sum(), inputs)
        found.append([x[:, :, :own] for x in (output, *grads)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
