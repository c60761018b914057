"""What tests of attention compare kernels with."""

from dataclasses import replace
from itertools import product

import torch

from distrain.models.attention import AttentionRule, attend, plan_attention
from distrain.models.attention.softmax import explicit_attention
from tests.distrain.models.layouts import document_mask

SINKS = (0.7, -0.2, 1.5, 0.0)


def heads(rows, length, *, dtype=torch.float64, num_kv_heads=4, sizes=(8, 8)):
    """Draw queries, keys and values as projections leave them: positions before heads."""
    dice = torch.Generator().manual_seed(length)
    shapes = ((4, sizes[0]), (num_kv_heads, sizes[0]), (num_kv_heads, sizes[1]))
    drawn = [torch.randn(rows, length, *shape, generator=dice, dtype=dtype) for shape in shapes]
    return [x.transpose(1, 2).requires_grad_() for x in drawn]


def results(function, inputs):
    """Return the output, and the gradients of a sum that weighs each place differently."""
    output = function()
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output, *torch.autograd.grad((output * weights).sum(), inputs)]


def both_ways(documents, rule, **kind):
    """Attend by the kernel of choice, and with all scores at once."""
    rows, length = documents.position_ids.shape
    q, k, v = inputs = heads(rows, length, **kind)
    if rule.sinks is not None:
        rule = replace(rule, sinks=rule.sinks.to(q.dtype).requires_grad_())
        inputs = [*inputs, rule.sinks]
    plan = plan_attention(documents)
    mask = document_mask(documents)
    found = results(lambda: attend(q, k, v, plan, rule), inputs)
    return found, results(lambda: explicit_attention(q, k, v, rule, mask), inputs)


def assert_close(found, expected, atol):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


RULES = [
    AttentionRule(scale, window, softcap, sinks)
    for scale, window, softcap, sinks in product(
        (None, 0.2), (None, 17), (None, 0.5), (None, torch.tensor(SINKS))
    )
]
"""All combinations of settings, each with a value that acts."""
EACH = [rule for rule in RULES if sum(x is not None for x in vars(rule).values()) in (1, 2, 5)]
"""No setting, each by itself, and all."""


def shown(rule):
    """Name the settings of a rule, for the ids of tests."""
    names = [name for name, value in vars(rule).items() if value is not None and name != "dropout"]
    return "-".join(names) or "plain"
