"""FlexAttention: capped scores and sinks in a fused kernel; CUDA only (no CPU backward in 2.13).

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, N = heads, K = key and value
heads, H = size of a query or key head, X = size of a value head, Q = blocks of a sequence.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from distrain.models.attention.layout import DocumentLayout
from distrain.models.attention.rule import AttentionRule
from distrain.models.flex_functions import capped_at, seen_from

BLOCK = 128
"""Positions of a block of the mask, FlexAttention's default."""


@cache
def fused() -> Callable[..., Any]:
    """Return FlexAttention compiled: as it is, it would hold all scores."""
    return torch.compile(flex_attention)


def flex_attend(
    q_BNTH: Tensor, k_BKTH: Tensor, v_BKTX: Tensor, mask: BlockMask, rule: AttentionRule
) -> Tensor:
    """Attend by ``rule``, which has no dropout; ``mask`` holds its window. Shape (B, N, T, X)."""
    out_BNTX, aux = fused()(
        q_BNTH,
        k_BKTH,
        v_BKTX,
        score_mod=None if rule.softcap is None else capped_at(rule.softcap),
        block_mask=mask,
        scale=rule.scale,
        enable_gqa=q_BNTH.shape[1] != k_BKTH.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    if rule.sinks is None:
        return out_BNTX  # type: ignore[no-any-return]
    # The sink adds exp(sink) to the sum of exp(scores) that the output was divided by.
    share_BNT = torch.sigmoid(aux.lse - rule.sinks.view(-1, 1))
    return out_BNTX * share_BNT.unsqueeze(-1).to(out_BNTX.dtype)  # type: ignore[no-any-return]


def block_mask(documents: DocumentLayout, window: int | None) -> BlockMask:
    """Say which keys are seen, and which blocks of keys are seen in part, or whole.

    From the lengths on the host: FlexAttention's own way goes through a (T, T) mask.
    """
    rows, length = documents.position_ids.shape
    device = documents.position_ids.device
    lengths = torch.tensor(documents.lengths)
    begins_BT = (lengths.cumsum(0) - lengths).repeat_interleave(lengths).view(rows, length) % length
    first_BT = begins_BT  # the first key that a position sees
    if window is not None:
        first_BT = begins_BT.maximum(torch.arange(length) - window + 1)
    # Later positions see no earlier first key, so the ends of a block say it all.
    firsts_BQ1 = (first_BT[:, ::BLOCK] // BLOCK).unsqueeze(2)
    ends = torch.arange(BLOCK - 1, length + BLOCK - 1, BLOCK).clamp(max=length - 1)
    lasts_BQ1 = first_BT[:, ends].unsqueeze(2)
    blocks = torch.arange(len(ends))
    seen_BQQ = (blocks >= firsts_BQ1) & (blocks <= blocks.unsqueeze(1))
    # A block is none of the whole ones where rows end within it.
    may_be_whole_QQ = (blocks < blocks.unsqueeze(1)) & (blocks < length // BLOCK).unsqueeze(1)
    whole_BQQ = seen_BQQ & may_be_whole_QQ & (blocks * BLOCK >= lasts_BQ1)
    return BlockMask.from_kv_blocks(
        *_table(seen_BQQ & ~whole_BQQ, device),
        *_table(whole_BQQ, device),
        BLOCK_SIZE=BLOCK,
        mask_mod=seen_from(first_BT.to(device)),
        seq_lengths=(length, length),
    )


def _table(chosen_BQQ: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return how many blocks of keys each block of queries has, and which, these first."""
    numbers = chosen_BQQ.int()
    order = numbers.argsort(dim=-1, descending=True, stable=True).int()
    return numbers.sum(-1, dtype=torch.int32)[:, None].to(device), order[:, None].to(device)
