from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from distrain.models.attention import (
    AttentionPlan,
    AttentionRule,
    DocumentLayout,
    attend,
    plan_attention,
    undivided,
)
from distrain.models.attention.dense import document_mask
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


def test_the_host_knows_how_long_documents_are():
    assert packed().lengths == (5, 1, 9, 15, 2, 13)
    assert undivided(torch.zeros(2, 4)).lengths == (4, 4)
    assert undivided(torch.zeros(2, 4)).cu_seqlens.tolist() == [0, 4, 8]
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
    masked = AttentionPlan(document_mask(documents))
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


def weights_by_hand(q, k, rule, mask):
    """Return the weights of one head, query by query, in plain numbers; shape (T, S)."""
    rows = []
    for t in range(len(q)):
        scores = k @ q[t] * (rule.scale or q.shape[1] ** -0.5)
        if rule.softcap:
            scores = rule.softcap * (scores / rule.softcap).tanh()
        first = 0 if rule.window is None else t - rule.window + 1
        seen = [s for s in range(t + 1) if mask[t, s] and s >= first]
        exps = {s: scores[s].exp() for s in seen}
        total = sum(exps.values()) + (0 if rule.sinks is None else rule.sinks.exp())
        rows.append(torch.stack([exps.get(s, torch.tensor(0.0)) / total for s in range(len(k))]))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "rule",
    [
        AttentionRule(scale=0.2),
        AttentionRule(window=4),
        AttentionRule(softcap=0.5),
        AttentionRule(sinks=torch.tensor(0.7)),
        AttentionRule(scale=0.3, window=3, softcap=0.5, sinks=torch.tensor(-0.7)),
    ],
    ids=repr,
)
def test_each_setting_of_a_rule_changes_the_weights_as_it_says(rule):
    q, k, _ = heads(3, 15)
    v = torch.randn(3, 4, 15, 5, dtype=torch.float64)  # the value heads' own size
    plan = plan_attention(packed())
    called = replace(rule, sinks=None if rule.sinks is None else rule.sinks.double().expand(4))
    found = attend(q, k, v, plan, called)
    for row in range(3):
        mask = document_mask(packed())[row, 0]
        expected = weights_by_hand(q[row, 1], k[row, 1], rule, mask) @ v[row, 1]
        torch.testing.assert_close(found[row, 1], expected, rtol=0, atol=1e-7)
    assert (found - attend(q, k, v, plan)).abs().max() > 1e-3


def test_queries_may_be_the_last_of_the_positions():
    q, k, v = heads(3, 15)
    plan = plan_attention(undivided(torch.zeros(3, 15)))
    for rule in (AttentionRule(), AttentionRule(window=4)):
        whole = attend(q, k, v, plan, rule)
        for kept in (0, 6, 14):
            last = attend(q[:, :, kept:], k, v, plan, rule)
            torch.testing.assert_close(last, whole[:, :, kept:], rtol=0, atol=1e-12)
