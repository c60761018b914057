"""Attention spelled out: any rule on any device, in blocks of queries.

Shape legend: G = documents side by side, T = query positions, S = key positions, N = heads, K = key
and value heads, M = heads that share a key head, H = size of a query or key head, X = that of a
value head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distrain.models.attention.blocks import query_blocks, seen_keys
from distrain.models.attention.rule import AttentionRule

BLOCK = 512
"""Queries whose scores are held at once."""


def softmax_attention(
    q_GNTH: Tensor, k_GKSH: Tensor, v_GKSX: Tensor, rule: AttentionRule
) -> Tensor:
    """Attend by ``rule`` within documents side by side; shape (G, N, T, X).

    Of several blocks, weights are computed again in the backward pass instead of kept.
    """
    if q_GNTH.shape[2] <= BLOCK:
        return explicit_attention(q_GNTH, k_GKSH, v_GKSX, rule)
    blocks = query_blocks(q_GNTH.shape[2], k_GKSH.shape[2], rule.window, BLOCK)
    outputs = [
        checkpoint(
            explicit_attention,
            part_GNTH,
            k_GKSH[:, :, keys],
            v_GKSX[:, :, keys],
            rule,
            use_reentrant=False,
            # Reading and setting the state of chance costs; without dropout none is drawn.
            preserve_rng_state=rule.dropout > 0,
        )
        for part_GNTH, (_, keys) in zip(q_GNTH.split(BLOCK, dim=2), blocks, strict=True)
    ]
    return torch.cat(outputs, dim=2)


def explicit_attention(
    q_GNTH: Tensor,
    k_GKSH: Tensor,
    v_GKSX: Tensor,
    rule: AttentionRule,
    mask: Tensor | None = None,
) -> Tensor:
    """Mix values by the softmax of all scores at once; what every kernel is compared with.

    Args:
        q_GNTH: Queries; they are the last T of S positions.
        k_GKSH: Keys; head n of N uses head ``n * K // N``.
        v_GKSX: Values.
        rule: What is done to the scores.
        mask: Which of the keys that are not later and in the window are seen, bool, broadcast to
            (G, K, N / K, T, S); ``None``: all.

    Returns:
        Shape (G, N, T, X).
    """
    seen = seen_keys(q_GNTH.shape[2], k_GKSH.shape[2], rule.window, q_GNTH.device)
    return mixed_by_scores(q_GNTH, k_GKSH, v_GKSX, rule, seen if mask is None else seen & mask)


def mixed_by_scores(
    q_GNTH: Tensor, k_GKSH: Tensor, v_GKSX: Tensor, rule: AttentionRule, seen: Tensor
) -> Tensor:
    """Mix values as ``explicit_attention`` does, for queries that lie anywhere.

    Args:
        q_GNTH: Queries.
        k_GKSH: Keys.
        v_GKSX: Values.
        rule: What is done to the scores.
        seen: Which keys are seen, window included; bool, broadcast to (G, K, N / K, T, S).
    """
    # Query heads of one key head in an axis of their own: no key is copied for each.
    q_GKMTH = q_GNTH.unflatten(1, (k_GKSH.shape[1], -1))
    scale = q_GNTH.shape[-1] ** -0.5 if rule.scale is None else rule.scale
    scores = (q_GKMTH * scale) @ k_GKSH.unsqueeze(2).transpose(-1, -2)
    # A softmax in 16 bits would lose what the product kept.
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    scores = scores.masked_fill(~seen, -torch.inf)
    if rule.sinks is not None:
        sinks = rule.sinks.to(scores.dtype).view(k_GKSH.shape[1], -1, 1, 1)
        scores = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1)], dim=-1)
    weights = scores.softmax(dim=-1)[..., : k_GKSH.shape[2]].to(v_GKSX.dtype)
    if rule.dropout:
        weights = F.dropout(weights, rule.dropout)
    mixed_GKMTX: Tensor = weights @ v_GKSX.unsqueeze(2)
    return mixed_GKMTX.flatten(1, 2)
