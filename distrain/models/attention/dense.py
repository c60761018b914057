"""The rule spelled out with all scores at once: what every kernel is compared with.

Shape legend: B = sequences in a microbatch, T = query positions, S = key positions, N = heads,
K = key and value heads, H = size of a query or key head, X = size of a value head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from distrain.models.attention.layout import DocumentLayout
from distrain.models.attention.rule import AttentionRule


def document_mask(documents: DocumentLayout) -> Tensor:
    """Return which keys each query may attend to: no later one, and only of its own document.

    A position always sees itself, padding too, so no row of the softmax is empty.

    Returns:
        Shape (B, 1, T, S), bool.
    """
    rows, length = documents.position_ids.shape
    device = documents.position_ids.device
    lengths = torch.tensor(documents.lengths, device=device)
    numbers = torch.arange(len(lengths), device=device)
    # With the size given, no device has to be waited for.
    ids_BT = numbers.repeat_interleave(lengths, output_size=rows * length).view(rows, length)
    causal_TS = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return ((ids_BT.unsqueeze(2) == ids_BT.unsqueeze(1)) & causal_TS).unsqueeze(1)


def dense_attention(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSX: Tensor, mask: Tensor | None, rule: AttentionRule
) -> Tensor:
    """Mix values by the softmax of all scores that ``mask`` and the window of ``rule`` allow.

    Args:
        q_BNTH: Queries; they are the last T of S positions.
        k_BKSH: Keys; head n of N uses head ``n * K // N``.
        v_BKSX: Values.
        mask: Bool, broadcast to (B, N, T, S); ``None``: only causality.
        rule: What else is done to the scores.

    Returns:
        Shape (B, N, T, X).
    """
    groups = q_BNTH.shape[1] // k_BKSH.shape[1]
    k_BNSH = k_BKSH.repeat_interleave(groups, dim=1)
    v_BNSX = v_BKSX.repeat_interleave(groups, dim=1)
    scale = rule.scale or q_BNTH.shape[-1] ** -0.5
    scores = q_BNTH @ k_BNSH.transpose(-1, -2) * scale
    # A softmax in 16 bits would lose what the product kept.
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    allowed = seen_keys(scores.shape[-2], scores.shape[-1], rule.window, scores.device)
    scores = scores.masked_fill(~(allowed if mask is None else allowed & mask), -torch.inf)
    if rule.sinks is not None:
        sinks = rule.sinks.to(scores.dtype).view(-1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.softmax(dim=-1)[..., : k_BKSH.shape[2]].to(v_BNSX.dtype)
    if rule.dropout:
        weights = F.dropout(weights, rule.dropout)
    return weights @ v_BNSX


def seen_keys(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    """Return which of the keys each of the last queries sees; shape (T, S), bool."""
    queries = torch.arange(num_keys - num_queries, num_keys, device=device).unsqueeze(1)
    keys = torch.arange(num_keys, device=device)
    seen = keys <= queries
    return seen if window is None else seen & (keys > queries - window)
