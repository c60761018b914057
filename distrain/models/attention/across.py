"""Attention of the columns that are here to all columns of their rows (context parallel).

Keys and values come together; queries stay. Each query knows the range of columns that it sees, so
that documents may cross the cut anywhere.

Shape legend: B = sequences in a microbatch, T = queries of a row that are here, S = columns of a
whole row, N = heads, K = key and value heads, H = size of a query or key head, X = size of a value
head.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distrain.config.attention import AttentionKernel
from distrain.models.attention.plan import AttentionPlan
from distrain.models.attention.rule import AttentionRule
from distrain.models.attention.sdpa import masked_attention
from distrain.models.attention.seen import SeenBlock
from distrain.models.attention.softmax import mixed_by_scores

QUERIES = 128
"""Queries that share one call. Between the first and the last lie more columns than queries, as
many times more as there are ranks, and a larger block would compute more that no query sees."""


def attend_across(
    q_BNTH: Tensor,
    k_BKTH: Tensor,
    v_BKTX: Tensor,
    plan: AttentionPlan,
    rule: AttentionRule,
    kernel: AttentionKernel,
) -> Tensor:
    """Mix values of all columns into those here; shape (B, N, T, X). Collective.

    Heads are gathered group by group: all groups start at once, and each is waited for only when
    the one before has been attended with. In the backward pass their sums go the other way while
    the next group is computed.

    Raises:
        ValueError: Weights are dropped, which would depend on how the rows are cut.
    """
    columns = plan.documents.columns
    assert columns is not None, "rows are cut"
    if rule.dropout:
        raise ValueError("attention over rows that are cut over ranks drops no weights")
    parts = columns.gathering.parts(k_BKTH.shape[1])
    pairs = zip(k_BKTH.chunk(parts, 1), v_BKTX.chunk(parts, 1), strict=True)
    pending = [columns.gathering.start(k, v) for k, v in pairs]
    sinks = [None] * parts if rule.sinks is None else rule.sinks.chunk(parts)
    outputs = [
        ACROSS[kernel](q, *finish(), plan, replace(rule, sinks=own))
        for q, finish, own in zip(q_BNTH.chunk(parts, 1), pending, sinks, strict=True)
    ]
    return outputs[0] if parts == 1 else torch.cat(outputs, dim=1)


WithinBlock = Callable[[Tensor, Tensor, Tensor, AttentionRule, SeenBlock], Tensor]
Across = Callable[[Tensor, Tensor, Tensor, AttentionPlan, AttentionRule], Tensor]


def _by_block(
    attend: WithinBlock,
    q_BNTH: Tensor,
    k_BKSH: Tensor,
    v_BKSX: Tensor,
    plan: AttentionPlan,
    rule: AttentionRule,
) -> Tensor:
    blocks = plan.seen(rule.window).blocks(QUERIES)
    # Computed again in the backward pass: neither weights nor masks are kept.
    outputs: list[Tensor] = [
        checkpoint(
            attend,
            *(q_BNQH, k_BKSH[:, :, block.keys], v_BKSX[:, :, block.keys], rule, block),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for q_BNQH, block in zip(q_BNTH.split(QUERIES, dim=2), blocks, strict=True)
    ]
    return torch.cat(outputs, dim=2)


def _sdpa_block(
    q_BNQH: Tensor, k_BKCH: Tensor, v_BKCX: Tensor, rule: AttentionRule, block: SeenBlock
) -> Tensor:
    return masked_attention(q_BNQH, k_BKCH, v_BKCX, rule, block.mask())


def _softmax_block(
    q_BNQH: Tensor, k_BKCH: Tensor, v_BKCX: Tensor, rule: AttentionRule, block: SeenBlock
) -> Tensor:
    return mixed_by_scores(q_BNQH, k_BKCH, v_BKCX, rule, block.mask().unsqueeze(1))


def _flex(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSX: Tensor, plan: AttentionPlan, rule: AttentionRule
) -> Tensor:
    from distrain.models.attention.flex import flex_attend  # imports torch's compiler

    return flex_attend(q_BNTH, k_BKSH, v_BKSX, plan.block_mask(rule.window), rule)


ACROSS: dict[AttentionKernel, Across] = {
    "sdpa": partial(_by_block, _sdpa_block),
    "softmax": partial(_by_block, _softmax_block),
    "flex": _flex,
}
