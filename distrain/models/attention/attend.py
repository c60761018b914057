"""Layer 5: attention within documents; the one place that chooses a kernel.

Shape legend: B = sequences in a microbatch, T = query positions, S = key positions, N = heads,
K = key and value heads, H = size of a query or key head, X = size of a value head.
"""

import torch.nn.functional as F
from torch import Tensor

from distrain.models.attention.dense import dense_attention, document_mask
from distrain.models.attention.layout import DocumentLayout
from distrain.models.attention.rule import PLAIN, AttentionRule


class AttentionPlan:
    """How all blocks of a forward pass attend; made once for them by ``plan_attention``.

    No dataclass: engines would rebuild one for every block.

    Args:
        mask: Which keys each query may attend to, bool of shape (B, 1, T, S); ``None``: all that
            are not later.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self.mask = mask


def plan_attention(documents: DocumentLayout) -> AttentionPlan:
    """Prepare to attend to no later position, and only within a document."""
    # On the CPU the same values bit by bit as with a mask, in half the time; no kernel that
    # takes a mask is as fast on a GPU either.
    return AttentionPlan(None if documents.has_one_document_a_row else document_mask(documents))


def attend(
    q_BNTH: Tensor,
    k_BKSH: Tensor,
    v_BKSX: Tensor,
    plan: AttentionPlan,
    rule: AttentionRule = PLAIN,
) -> Tensor:
    """Mix values over the positions of ``plan`` by ``rule``.

    Where each row is one document, queries may be fewer than keys: they are then the last T of its
    S positions, the others' keys and values being kept from earlier calls.

    Returns:
        Shape (B, N, T, X).
    """
    same_size = v_BKSX.shape[-1] == q_BNTH.shape[-1] and k_BKSH.shape[2] == q_BNTH.shape[2]
    if rule.window is None and rule.softcap is None and rule.sinks is None and same_size:
        groups = q_BNTH.shape[1] // k_BKSH.shape[1]
        if groups > 1:
            # SDPA's own enable_gqa has no fused kernel that also takes a mask.
            k_BKSH = k_BKSH.repeat_interleave(groups, dim=1)
            v_BKSX = v_BKSX.repeat_interleave(groups, dim=1)
        # A mask holds causality too: SDPA takes a mask or ``is_causal``, not both.
        return F.scaled_dot_product_attention(
            q_BNTH, k_BKSH, v_BKSX, plan.mask, rule.dropout, plan.mask is None, scale=rule.scale
        )
    return dense_attention(q_BNTH, k_BKSH, v_BKSX, plan.mask, rule)
