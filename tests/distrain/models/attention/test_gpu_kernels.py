"""The kernels of CUDA as far as a CPU shows them: masks, and what is handed over."""

from itertools import pairwise

import pytest
import torch
from torch.nn.attention import varlen
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from distrain.models.attention import AttentionRule, flex, plan_attention
from distrain.models.attention.kernels import ATTENTIONS
from distrain.models.attention.softmax import explicit_attention
from tests.distrain.models.attention.comparing import EACH, RULES, heads, shown
from tests.distrain.models.layouts import document_mask, layout_of_lengths

LENGTHS = ((300, 5, 95), (400,), (128, 128, 100, 44))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("rule", EACH, ids=shown)
def test_flex_attention_is_told_the_whole_rule(rule, monkeypatch):
    """Its uncompiled form has a forward pass on the CPU."""
    monkeypatch.setattr(flex, "fused", lambda: flex_attention)
    documents = layout_of_lengths(LENGTHS)
    q, k, v = (x.detach() for x in heads(3, 400, num_kv_heads=2, dtype=torch.float32))
    found = ATTENTIONS["flex"](q, k, v, plan_attention(documents), rule)
    expected = explicit_attention(q, k, v, rule, document_mask(documents))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [None, 1, 40, 128, 129, 200, 300])
@pytest.mark.parametrize("lengths", [LENGTHS, ((1, 1, 127, 300),), ((100,), (30, 70))])
def test_blocks_of_the_mask_are_those_that_a_whole_mask_gives(window, lengths):
    documents = layout_of_lengths(lengths)
    seen = document_mask(documents)[:, 0, 0]
    length = seen.shape[-1]

    def mask_mod(row, head, query, key):
        far = torch.tensor(False) if window is None else key <= query - window
        return seen[row, query, key] & (key <= query) & ~far

    expected = create_block_mask(mask_mod, len(seen), None, length, length, device="cpu")
    found = plan_attention(documents).block_mask(window)
    assert torch.equal(found.to_dense(), expected.to_dense())
    for counts, indices in (
        ("kv_num_blocks", "kv_indices"),
        ("full_kv_num_blocks", "full_kv_indices"),
    ):
        assert torch.equal(getattr(found, counts), getattr(expected, counts))
        pairs = zip(
            getattr(found, counts).flatten(),
            *(getattr(mask, indices).flatten(0, 2) for mask in (found, expected)),
            strict=True,
        )
        for count, one, other in pairs:
            assert one[:count].tolist() == other[:count].tolist()


def documents_one_by_one(q, k, v, *lengths, scale, window_size, enable_gqa):
    """Do what the documentation of ``varlen_attn`` says, on a CPU; heads after positions."""
    cu_q, cu_k, max_q, max_k = lengths
    assert torch.equal(cu_q, cu_k)
    assert max_q == max_k >= cu_q.diff().max()
    assert q.shape[2] == k.shape[2] == v.shape[2] == -(-q.shape[2] // 8) * 8
    assert enable_gqa == (q.shape[1] != k.shape[1])
    left, right = window_size
    assert right == 0
    rule = AttentionRule(scale=scale, window=None if left == -1 else left + 1)
    outputs = []
    for start, stop in pairwise(cu_q.tolist()):
        parts = [x[start:stop].transpose(0, 1).unsqueeze(0) for x in (q, k, v)]
        output = explicit_attention(parts[0], parts[1], parts[2], rule)
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


PLAIN_SCORES = [rule for rule in RULES if rule.softcap is None and rule.sinks is None]


@pytest.mark.parametrize("sizes", [(8, 8), (12, 5), (5, 12)])
@pytest.mark.parametrize("rule", PLAIN_SCORES, ids=shown)
def test_varlen_is_given_documents_end_to_end(rule, sizes, monkeypatch):
    """By a stand-in for the kernel, which runs on CUDA alone."""
    monkeypatch.setattr(varlen, "varlen_attn", documents_one_by_one)
    documents = layout_of_lengths(LENGTHS)
    q, k, v = (x.detach() for x in heads(3, 400, num_kv_heads=2, sizes=sizes))
    found = ATTENTIONS["varlen"](q, k, v, plan_attention(documents), rule)
    expected = explicit_attention(q, k, v, rule, document_mask(documents))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
