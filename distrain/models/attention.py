"""Layer 5: attention within documents; the one place that chooses a kernel, and makes its mask.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence (query positions), S = the
same as keys, N = heads, K = key and value heads, H = size of a head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class DocumentLayout:
    """Which documents lie in the rows of a microbatch, and where.

    Made of integers: what engines do with a forward pass's inputs leaves them as they are.

    Args:
        cu_seqlens: Where each document begins in the rows laid end to end, and where the last one
            ends, as FlashAttention's varlen functions take it; shape (documents + 1,), integer.
            Each row begins a document, so that none is longer than T; padding is one too.
        position_ids: Of each token in its document; shape (B, T), integer.
    """

    cu_seqlens: Tensor
    position_ids: Tensor

    @property
    def has_one_document_a_row(self) -> bool:
        """Whether the rows are not divided. By shapes alone, so no device is waited for."""
        return len(self.cu_seqlens) == len(self.position_ids) + 1

    def document_ids(self) -> Tensor:
        """Number the documents, and return that of each token; shape (B, T), int64."""
        lengths = self.cu_seqlens.diff()
        numbers = torch.arange(len(lengths), device=lengths.device)
        # With the size given, no device has to be waited for.
        size = self.position_ids.numel()
        return numbers.repeat_interleave(lengths, output_size=size).view_as(self.position_ids)


def undivided(input_ids: Tensor) -> DocumentLayout:
    """Return the layout of rows that are one document each; ``input_ids`` of shape (B, T)."""
    rows, length = input_ids.shape
    starts = torch.arange(rows + 1, dtype=torch.int32, device=input_ids.device) * length
    return DocumentLayout(starts, torch.arange(length, device=starts.device).expand(rows, length))


@dataclass(frozen=True)
class AttentionPlan:
    """How all blocks of a forward pass attend; made once for them by ``plan_attention``.

    Args:
        mask: Which keys each query may attend to, bool of shape (B, 1, T, S); ``None``: all that
            are not later.
    """

    mask: Tensor | None


def plan_attention(documents: DocumentLayout) -> AttentionPlan:
    """Choose how to attend: to no later position, and only within a document."""
    # On the CPU the same values bit by bit as with a mask, in half the time; no kernel that
    # takes a mask is as fast on a GPU either.
    if documents.has_one_document_a_row:
        return AttentionPlan(None)
    return AttentionPlan(document_mask(documents.document_ids()))


def attend(q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, plan: AttentionPlan) -> Tensor:
    """Mix values over the positions of ``plan``; scores are scaled by the root of H.

    Returns:
        Shape (B, N, T, H).
    """
    groups = q_BNTH.shape[1] // k_BKTH.shape[1]
    if groups > 1:
        # SDPA's own enable_gqa has no fused kernel that also takes a mask.
        k_BKTH = k_BKTH.repeat_interleave(groups, dim=1)
        v_BKTH = v_BKTH.repeat_interleave(groups, dim=1)
    # A mask holds causality too: SDPA takes a mask or ``is_causal``, not both.
    return F.scaled_dot_product_attention(
        q_BNTH, k_BKTH, v_BKTH, attn_mask=plan.mask, is_causal=plan.mask is None
    )


def document_mask(document_ids_BT: Tensor) -> Tensor:
    """Return which keys each query may attend to: no later one, and only of its own document.

    A position always sees itself, padding too, so no row of the softmax is empty.

    Returns:
        Shape (B, 1, T, S), bool.
    """
    length = document_ids_BT.shape[1]
    causal_TS = torch.ones(length, length, dtype=torch.bool, device=document_ids_BT.device).tril()
    same_BTS = document_ids_BT.unsqueeze(2) == document_ids_BT.unsqueeze(1)
    return (same_BTS & causal_TS).unsqueeze(1)
