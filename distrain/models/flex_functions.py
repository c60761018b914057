"""What FlexAttention compiles into its kernel: which keys are seen, and what becomes of a score.

They lie outside of ``attention``, whose files the compiler leaves alone where blocks are compiled
(``distrain.parallel.compilation``): it would refuse to look into these, too.

Shape legend: B = sequences in a microbatch, T = queries of a sequence.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def seen_within(
    first_BT: Tensor, last_T: Tensor
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return FlexAttention's ``mask_mod`` of attention to a range of keys.

    Args:
        first_BT: The first key that each query sees, shape (B, T).
        last_T: The last one, shape (T,).
    """

    def is_seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del head
        return (key <= last_T[query]) & (key >= first_BT[row, query])

    return is_seen


def capped_at(cap: float) -> Callable[..., Tensor]:
    """Return FlexAttention's ``score_mod`` of a soft cap: ``cap * tanh(score / cap)``."""

    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped
