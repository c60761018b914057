"""The kernels of attention, by the names that ``choose_kernel`` gives them.

Shape legend: B = sequences in a microbatch, T = query positions, S = key positions, N = heads,
K = key and value heads, H = size of a query or key head, X = size of a value head.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from distrain.config.attention import AttentionKernel
from distrain.models.attention.plan import AttentionPlan
from distrain.models.attention.rule import AttentionRule
from distrain.models.attention.sdpa import sdpa_attention
from distrain.models.attention.softmax import softmax_attention
from distrain.models.attention.varlen import varlen_attention

WithinPiece = Callable[[Tensor, Tensor, Tensor, AttentionRule], Tensor]


def sdpa(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSX: Tensor, plan: AttentionPlan, rule: AttentionRule
) -> Tensor:
    """PyTorch's fused kernels for each document: any device, unless scores are changed."""
    if not plan.is_divided and torch.is_grad_enabled():
        # Whole rows of heads that share keys sum up gradients in this order since the first
        # version, so that a run of any age goes on with the same bits.
        groups = q_BNTH.shape[1] // k_BKSH.shape[1]
        if groups > 1:
            k_BKSH = k_BKSH.repeat_interleave(groups, dim=1)
            v_BKSX = v_BKSX.repeat_interleave(groups, dim=1)
    return _by_document(sdpa_attention, (q_BNTH, k_BKSH, v_BKSX), plan, rule)


def softmax(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSX: Tensor, plan: AttentionPlan, rule: AttentionRule
) -> Tensor:
    """Spelled out: any device, any rule, heads of two sizes."""
    return _by_document(softmax_attention, (q_BNTH, k_BKSH, v_BKSX), plan, rule)


def varlen(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSX: Tensor, plan: AttentionPlan, rule: AttentionRule
) -> Tensor:
    """FlashAttention over all documents in one call: CUDA and bf16, unless scores are changed."""
    return varlen_attention(q_BNTH, k_BKSH, v_BKSX, plan.documents, rule)


def flex(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSX: Tensor, plan: AttentionPlan, rule: AttentionRule
) -> Tensor:
    """FlexAttention: CUDA, any rule but dropout."""
    from distrain.models.attention.flex import flex_attend  # imports torch's compiler

    return flex_attend(q_BNTH, k_BKSH, v_BKSX, plan.block_mask(rule.window), rule)


Kernel = Callable[[Tensor, Tensor, Tensor, AttentionPlan, AttentionRule], Tensor]

ATTENTIONS: dict[AttentionKernel, Kernel] = {
    "sdpa": sdpa,
    "softmax": softmax,
    "varlen": varlen,
    "flex": flex,
}


def _by_document(
    kernel: WithinPiece,
    heads: tuple[Tensor, Tensor, Tensor],
    plan: AttentionPlan,
    rule: AttentionRule,
) -> Tensor:
    if not plan.is_divided:
        return kernel(*heads, rule)
    q_pieces, k_pieces, v_pieces = (plan.pieces.cut(x) for x in heads)
    pieces = zip(q_pieces, k_pieces, v_pieces, strict=True)
    return plan.pieces.join([kernel(q, k, v, rule) for q, k, v in pieces], len(heads[0]))
