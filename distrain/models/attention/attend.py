"""Layer 5: attention within documents, the one function that every family calls.

Shape legend: B = sequences in a microbatch, T = query positions, S = key positions, N = heads,
K = key and value heads, H = size of a query or key head, X = size of a value head.
"""

from dataclasses import replace

import torch
from torch import Tensor

from distrain.config.attention import AttentionKernel, AttentionNeeds, choose_kernel
from distrain.models.attention.across import attend_across
from distrain.models.attention.kernels import ATTENTIONS
from distrain.models.attention.plan import AttentionPlan
from distrain.models.attention.rule import PLAIN, AttentionRule

PRECISIONS = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}


def attend(
    q_BNTH: Tensor,
    k_BKSH: Tensor,
    v_BKSX: Tensor,
    plan: AttentionPlan,
    rule: AttentionRule = PLAIN,
) -> Tensor:
    """Mix values over the positions of ``plan`` by ``rule``; head n of N uses key head n * K // N.

    Where each row is one document, queries may be fewer than keys: they are then the last T of its
    S positions, the others' keys and values being kept from earlier calls.
    Where only some columns of the rows are here, all three are of these, and the keys and values of
    the others are gathered.

    Returns:
        Shape (B, N, T, X).

    Raises:
        ValueError: Rows of several documents have fewer queries than keys.
    """
    if plan.is_divided and q_BNTH.shape[2] != k_BKSH.shape[2]:
        raise ValueError("rows of several documents must have as many queries as keys")
    q_BNTH, k_BKSH, v_BKSX = _as_autocast((q_BNTH, k_BKSH, v_BKSX))
    is_told = plan.is_divided or plan.documents.columns is not None
    longest = max(plan.documents.lengths) if is_told else k_BKSH.shape[2]
    if rule.window is not None and rule.window >= longest:
        rule = replace(rule, window=None)  # kernels without one may then be chosen
    kernel = kernel_for(q_BNTH, k_BKSH, v_BKSX, plan, rule)
    if plan.documents.columns is not None:
        return attend_across(q_BNTH, k_BKSH, v_BKSX, plan, rule, kernel)
    return ATTENTIONS[kernel](q_BNTH, k_BKSH, v_BKSX, plan, rule)


def kernel_for(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSX: Tensor, plan: AttentionPlan, rule: AttentionRule
) -> AttentionKernel:
    """Choose the kernel of a call."""
    needs = AttentionNeeds(
        window=rule.window is not None,
        softcap=rule.softcap is not None,
        sinks=rule.sinks is not None,
        dropout=rule.dropout > 0,
        two_sizes=q_BNTH.shape[-1] != v_BKSX.shape[-1],
        head_dim=max(q_BNTH.shape[-1], v_BKSX.shape[-1]),
    )
    # What takes fewer queries than keys is what a CPU takes.
    device = q_BNTH.device.type if q_BNTH.shape[2] == k_BKSH.shape[2] else "cpu"
    precision = PRECISIONS.get(q_BNTH.dtype, "other")
    cut = plan.documents.columns is not None
    return choose_kernel(device, precision, needs, divided=plan.is_divided, cut=cut)


def _as_autocast(heads: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Cast as SDPA would under autocast; the other kernels do not do it themselves."""
    device = heads[0].device.type
    # Meta tensors, of which a family's products are counted, have no autocast at all.
    has_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if not has_autocast or heads[0].dtype == torch.float64:
        return heads
    dtype = torch.get_autocast_dtype(device)
    return heads[0].to(dtype), heads[1].to(dtype), heads[2].to(dtype)
