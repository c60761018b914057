"""Rotary position embedding (arXiv 2104.09864) in Hugging Face's ``rotate_half`` convention.

Shape legend: B = sequences (1 where they share positions), T = tokens, N = heads, H = size of a
head. Dimension i of a head is paired with i + H / 2; the paper pairs 2i with 2i + 1.
"""

import torch
from torch import Tensor


def rope_tables(
    position_ids_BT: Tensor, head_dim: int, *, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute the cosine and sine of each position's rotation, shape (B, T, H) each.

    Angles are taken in float32, or float64 for a float64 model, whatever ``dtype`` is: bf16 cannot
    tell neighbouring positions apart from 256 on.
    """
    exact = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, head_dim, 2, dtype=exact, device=position_ids_BT.device) / head_dim
    # Not positions / theta**exponents: in this order the rounding is Hugging Face's as well.
    angles = position_ids_BT.unsqueeze(-1).to(exact) * (1.0 / theta**exponents)
    angles_BTH = torch.cat((angles, angles), dim=-1)
    return angles_BTH.cos().to(dtype), angles_BTH.sin().to(dtype)


def rotate(x_BNTH: Tensor, cos_BTH: Tensor, sin_BTH: Tensor) -> Tensor:
    """Rotate each pair of a head's dimensions by its position's angle; keeps the dtype of ``x``.

    Under autocast ``x`` is bf16 and the tables are float32: the product is then taken in float32.
    """
    first, second = x_BNTH.chunk(2, dim=-1)
    half_turned_BNTH = torch.cat((-second, first), dim=-1)
    rotated_BNTH = x_BNTH * cos_BTH.unsqueeze(1) + half_turned_BNTH * sin_BTH.unsqueeze(1)
    return rotated_BNTH.to(x_BNTH.dtype)
