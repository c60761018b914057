"""FlexAttention: capped scores and sinks in a fused kernel; CUDA only (no CPU backward in 2.13).

Shape legend: B = sequences in a microbatch, T = queries of a sequence, S = its keys, N = heads, K =
key and value heads, H = size of a query or key head, X = size of a value head, Q = blocks of
queries, C = blocks of keys.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from distrain.models.attention.rule import AttentionRule
from distrain.models.attention.seen import SeenKeys
from distrain.models.flex_functions import capped_at, seen_within

BLOCK = 128
"""Positions of a block of the mask, FlexAttention's default."""


@cache
def fused() -> Callable[..., Any]:
    """Return FlexAttention compiled: as it is, it would hold all scores."""
    return torch.compile(flex_attention)


def flex_attend(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSX: Tensor, mask: BlockMask, rule: AttentionRule
) -> Tensor:
    """Attend by ``rule``, which has no dropout; ``mask`` holds its window. Shape (B, N, T, X)."""
    out_BNTX, aux = fused()(
        q_BNTH,
        k_BKSH,
        v_BKSX,
        score_mod=None if rule.softcap is None else capped_at(rule.softcap),
        block_mask=mask,
        scale=rule.scale,
        enable_gqa=q_BNTH.shape[1] != k_BKSH.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    if rule.sinks is None:
        return out_BNTX  # type: ignore[no-any-return]
    # The sink adds exp(sink) to the sum of exp(scores) that the output was divided by.
    share_BNT = torch.sigmoid(aux.lse - rule.sinks.view(-1, 1))
    return out_BNTX * share_BNT.unsqueeze(-1).to(out_BNTX.dtype)  # type: ignore[no-any-return]


def block_mask(seen: SeenKeys) -> BlockMask:
    """Say which keys are seen, and which blocks of keys are seen in part, or whole.

    From ranges on the host: FlexAttention's own way goes through a (T, S) mask.
    """
    num_queries, num_keys = len(seen.last_T), seen.row_length
    # Later queries see no earlier first key and no earlier last one: ends of a block say it all.
    begins = torch.arange(0, num_queries, BLOCK)
    ends = (begins + BLOCK - 1).clamp(max=num_queries - 1)
    blocks_C = torch.arange(-(-num_keys // BLOCK))
    seen_BQC = (blocks_C >= (seen.first_BT[:, begins] // BLOCK).unsqueeze(2)) & (
        blocks_C <= (seen.last_T[ends] // BLOCK).unsqueeze(1)
    )
    # A block is none of the whole ones where the row of queries ends within it.
    is_past_QC = (blocks_C + 1) * BLOCK - 1 <= seen.last_T[begins].unsqueeze(1)
    is_filled_Q1 = (begins + BLOCK <= num_queries).unsqueeze(1)
    is_begun_BQC = blocks_C * BLOCK >= seen.first_BT[:, ends].unsqueeze(2)
    whole_BQC = seen_BQC & is_past_QC & is_filled_Q1 & is_begun_BQC
    device = seen.last_on_device.device
    return BlockMask.from_kv_blocks(
        *_table(seen_BQC & ~whole_BQC, device),
        *_table(whole_BQC, device),
        BLOCK_SIZE=BLOCK,
        mask_mod=seen_within(seen.first_on_device, seen.last_on_device),
        seq_lengths=(num_queries, num_keys),
    )


def _table(chosen_BQC: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return how many blocks of keys each block of queries has, and which, these first."""
    numbers = chosen_BQC.int()
    order = numbers.argsort(dim=-1, descending=True, stable=True).int()
    return numbers.sum(-1, dtype=torch.int32)[:, None].to(device), order[:, None].to(device)
