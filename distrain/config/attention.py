"""Layer 5: which kernel attends, by what is known without torch, so that a plan can say it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AttentionKernel = Literal["sdpa", "softmax", "varlen", "flex"]

LARGEST_FLASH_HEAD = 256
"""Dimensions of a head that the flash kernels take (torch 2.13)."""


@dataclass(frozen=True)
class AttentionNeeds:
    """What a kernel must be able to do; the fields of a rule, without their values.

    Args:
        window: Look back only so far.
        softcap: Cap the scores.
        sinks: Scores of keys without values.
        dropout: Drop weights.
        two_sizes: Have value heads of another size than key heads.
        head_dim: Dimensions of the larger of key and value heads.
    """

    window: bool = False
    softcap: bool = False
    sinks: bool = False
    dropout: bool = False
    two_sizes: bool = False
    head_dim: int = 64


def choose_kernel(
    device: str, precision: str, needs: AttentionNeeds, *, divided: bool, cut: bool = False
) -> AttentionKernel:
    """Choose how queries attend to equally many keys.

    Args:
        device: Kind of it, ``"cpu"`` or ``"cuda"``.
        precision: Of the forward pass: ``"fp32"``, ``"fp64"`` or ``"bf16"``.
        needs: Of the model, and of the training.
        divided: Whether a row has several documents.
        cut: Whether only a part of the columns is here. FlashAttention takes queries that are the
            last of their keys, and not such as lie scattered among them.

    Returns:
        ``sdpa``: PyTorch's own, document by document, or row by row if not divided; ``softmax``:
        spelled out in blocks of queries; ``varlen``: FlashAttention over all documents at once;
        ``flex``: FlexAttention.
    """
    changes_scores = needs.softcap or needs.sinks
    if cut and device == "cuda" and not needs.dropout and precision != "fp64":
        return "flex"
    if device != "cuda":
        # Without its fused kernel SDPA would hold all weights of a document.
        not_fused = changes_scores or needs.dropout or needs.two_sizes
        return "softmax" if not_fused else "sdpa"
    if changes_scores:
        # Triton has no fp64; FlexAttention draws no random numbers.
        return "softmax" if needs.dropout or precision == "fp64" else "flex"
    # Rows that are one document have fused kernels in any precision.
    is_flash = precision == "bf16" and needs.head_dim <= LARGEST_FLASH_HEAD and not needs.dropout
    return "varlen" if is_flash and (divided or needs.window) and not cut else "sdpa"


def kernels_by_rows(
    device: str, precision: str, needs: AttentionNeeds
) -> Mapping[str, AttentionKernel]:
    """Return the kernel for rows that hold several documents, and for rows that are one."""
    return {
        "divided_rows": choose_kernel(device, precision, needs, divided=True),
        "whole_rows": choose_kernel(device, precision, needs, divided=False),
    }
