"""Each kernel against the softmax of all scores, forward and backward."""

import pytest
import torch

from distrain.models.attention import AttentionRule, attend, plan_attention
from tests.distrain.models.attention.comparing import (
    RULES,
    SINKS,
    assert_close,
    both_ways,
    heads,
    shown,
)
from tests.distrain.models.layouts import document_mask, layout_of_lengths

MIXED = ((150, 1, 40, 9), (200,), (128, 72))


@pytest.mark.parametrize("rule", RULES, ids=shown)
def test_every_combination_of_settings_equals_the_whole_softmax(rule):
    for kind in ({}, {"num_kv_heads": 2, "sizes": (8, 5)}, {"num_kv_heads": 1, "sizes": (4, 8)}):
        found, expected = both_ways(layout_of_lengths(MIXED), rule, **kind)
        assert_close(found, expected, 1e-12)
    found, expected = both_ways(layout_of_lengths(MIXED), rule, dtype=torch.float32)
    assert_close(found[:1], expected[:1], 1e-6)
    assert_close(found[1:], expected[1:], 1e-5)


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
        total = sum(exps.values()) + (0 if rule.sinks is None else rule.sinks[0].exp())
        rows.append(torch.stack([exps.get(s, torch.tensor(0.0)) / total for s in range(len(k))]))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "rule",
    [
        AttentionRule(scale=0.2),
        AttentionRule(window=4),
        AttentionRule(softcap=0.5),
        AttentionRule(sinks=torch.tensor(SINKS)),
        AttentionRule(scale=0.3, window=3, softcap=0.5, sinks=torch.tensor(SINKS)),
    ],
    ids=shown,
)
def test_each_setting_of_a_rule_changes_the_weights_as_it_says(rule):
    documents = layout_of_lengths(((5, 1, 9), (15,), (2, 13)))
    q, k, v = heads(3, 15)
    plan = plan_attention(documents)
    found = attend(q, k, v, plan, rule)
    for row in range(3):
        mask = document_mask(documents)[row, 0, 0]
        expected = weights_by_hand(q[row, 0], k[row, 0], rule, mask) @ v[row, 0]
        torch.testing.assert_close(found[row, 0], expected, rtol=0, atol=1e-7)
    assert (found - attend(q, k, v, plan)).abs().max() > 1e-3
