"""FlashAttention over all documents in one call; CUDA only.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, R = tokens of all rows, N =
heads, K = key and value heads, H = size of a query or key head, X = size of a value head.
"""

import torch.nn.functional as F
from torch import Tensor

from distrain.models.attention.layout import DocumentLayout
from distrain.models.attention.rule import AttentionRule


def varlen_attention(
    q_BNTH: Tensor, k_BKTH: Tensor, v_BKTX: Tensor, documents: DocumentLayout, rule: AttentionRule
) -> Tensor:
    """Attend by ``rule``, which has neither soft cap, sinks nor dropout; shape (B, N, T, X).

    Args:
        q_BNTH: Queries, bf16; H at most 256.
        k_BKTH: Keys.
        v_BKTX: Values.
        documents: Of the rows.
        rule: What is done to the scores.
    """
    from torch.nn.attention.varlen import varlen_attn

    size, value_size = q_BNTH.shape[-1], v_BKTX.shape[-1]
    # The kernel takes one size, a multiple of 8. Zeros in keys or values change nothing.
    width = -(-max(size, value_size) // 8) * 8
    padded = (F.pad(x, (0, width - x.shape[-1])) for x in (q_BNTH, k_BKTH, v_BKTX))
    q_RNH, k_RKH, v_RKH = (x.transpose(1, 2).flatten(0, 1) for x in padded)
    # Only how many blocks are started follows from it: rounded up, a compiled graph fits more rows.
    longest = min(1 << (max(documents.lengths) - 1).bit_length(), q_BNTH.shape[2])
    out_RNH = varlen_attn(
        q_RNH,
        k_RKH,
        v_RKH,
        documents.cu_seqlens,
        documents.cu_seqlens,
        longest,
        longest,
        scale=size**-0.5 if rule.scale is None else rule.scale,
        # Keys before the query's own, and after it.
        window_size=(-1 if rule.window is None else rule.window - 1, 0),
        enable_gqa=q_BNTH.shape[1] != k_BKTH.shape[1],
    )
    assert isinstance(out_RNH, Tensor)  # with the sums of exponentials only if asked for
    out_BTNX: Tensor = out_RNH[..., :value_size].unflatten(0, (len(q_BNTH), -1))
    return out_BTNX.transpose(1, 2)
