"""PyTorch's scaled dot-product attention, within documents.

Shape legend: G = documents side by side, T = query positions, S = key positions, N = heads, K = key
and value heads, H = size of a query or key head, X = size of a value head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from distrain.models.attention.blocks import query_blocks, seen_keys
from distrain.models.attention.rule import AttentionRule


def sdpa_attention(q_GNTH: Tensor, k_GKSH: Tensor, v_GKSX: Tensor, rule: AttentionRule) -> Tensor:
    """Attend by ``rule``, which has no soft cap and no sinks; shape (G, N, T, X)."""
    num_queries, num_keys, window = q_GNTH.shape[2], k_GKSH.shape[2], rule.window
    if num_queries == num_keys and (window is None or window >= num_keys):
        return _call(q_GNTH, k_GKSH, v_GKSX, rule, is_causal=True)
    size = block_size(window)
    blocks = query_blocks(num_queries, num_keys, window, size)
    outputs = [
        _block(part_GNTH, k_GKSH[:, :, keys], v_GKSX[:, :, keys], rule)
        for part_GNTH, (_, keys) in zip(q_GNTH.split(size, dim=2), blocks, strict=True)
    ]
    return torch.cat(outputs, dim=2)


def masked_attention(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSX: Tensor, rule: AttentionRule, seen: Tensor
) -> Tensor:
    """Attend by ``rule``, of which ``seen`` holds the window; shape (B, N, T, X).

    Args:
        q_BNTH: Queries.
        k_BKSH: Keys.
        v_BKSX: Values.
        rule: Without soft cap and sinks.
        seen: Which key each query sees, bool, broadcast to (B, N, T, S).
    """
    return _call(q_BNTH, k_BKSH, v_BKSX, rule, mask=seen)


def block_size(window: int | None) -> int:
    """Return how many queries share one call: half a window computes half of it in vain."""
    return 512 if window is None else min(max(window // 2, 128), 512)


def _block(q_GNTH: Tensor, k_GKSH: Tensor, v_GKSX: Tensor, rule: AttentionRule) -> Tensor:
    num_queries, num_keys = q_GNTH.shape[2], k_GKSH.shape[2]
    if num_queries == 1:
        return _call(q_GNTH, k_GKSH, v_GKSX, rule)  # a single query sees all keys of its block
    # A mask holds causality too: SDPA takes a mask or ``is_causal``, not both.
    mask = seen_keys(num_queries, num_keys, rule.window, q_GNTH.device)
    return _call(q_GNTH, k_GKSH, v_GKSX, rule, mask=mask)


def _call(
    q_GNTH: Tensor,
    k_GKSH: Tensor,
    v_GKSX: Tensor,
    rule: AttentionRule,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    return F.scaled_dot_product_attention(
        q_GNTH,
        k_GKSH,
        v_GKSX,
        attn_mask=mask,
        dropout_p=rule.dropout,
        is_causal=is_causal,
        scale=rule.scale,
        enable_gqa=q_GNTH.shape[1] != k_GKSH.shape[1],
    )
