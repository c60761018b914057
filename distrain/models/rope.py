"""Rotary position embedding (arXiv 2104.09864) in Hugging Face's ``rotate_half`` convention.

Shape legend: B = sequences (1 where they share positions), T = tokens, N = heads, H = size of a
head. Dimension i of a head is paired with i + H / 2; the paper pairs 2i with 2i + 1.
"""

import math

import torch
from torch import Tensor

from distrain.config.models.llama import RopeScaling


def rope_tables(
    position_ids_BT: Tensor,
    head_dim: int,
    *,
    theta: float,
    dtype: torch.dtype,
    scaling: RopeScaling | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the cosine and sine of each position's rotation, shape (B, T, H) each.

    Angles are taken in float32, or float64 for a float64 model, whatever ``dtype`` is: bf16 cannot
    tell neighbouring positions apart from 256 on.
    """
    exact = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, head_dim, 2, dtype=exact, device=position_ids_BT.device) / head_dim
    frequencies = 1.0 / theta**exponents
    if scaling is not None:
        frequencies = scaled(frequencies, scaling)
    # Not positions / theta**exponents: in this order the rounding is Hugging Face's as well.
    angles = position_ids_BT.unsqueeze(-1).to(exact) * frequencies
    angles_BTH = torch.cat((angles, angles), dim=-1)
    return angles_BTH.cos().to(dtype), angles_BTH.sin().to(dtype)


def scaled(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Slow low frequencies down as Llama 3.1 does (arXiv 2407.21783, section 3.4).

    Waves that fit ``high_freq_factor`` times or more into the original length stay, those that fit
    at most ``low_freq_factor`` times are divided by ``factor``; in between, the share of each goes
    linearly with how often they fit. The order of operations is that of transformers.

    Args:
        frequencies: Angle a position, in radians, shape (H / 2,).
        scaling: The four numbers.
    """
    length, low, high = (
        scaling.original_max_position_embeddings,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
    )
    waves = 2 * math.pi / frequencies
    slowed = torch.where(waves > length / low, frequencies / scaling.factor, frequencies)
    kept_share = (length / waves - low) / (high - low)
    mixed = (1 - kept_share) * slowed / scaling.factor + kept_share * slowed
    is_between = (waves >= length / high) & (waves <= length / low)
    return torch.where(is_between, mixed, slowed)


def rotate(x_BNTH: Tensor, cos_BTH: Tensor, sin_BTH: Tensor) -> Tensor:
    """Rotate each pair of a head's dimensions by its position's angle; keeps the dtype of ``x``.

    Under autocast ``x`` is bf16 and the tables are float32: the product is then taken in float32.
    """
    first, second = x_BNTH.chunk(2, dim=-1)
    half_turned_BNTH = torch.cat((-second, first), dim=-1)
    rotated_BNTH = x_BNTH * cos_BTH.unsqueeze(1) + half_turned_BNTH * sin_BTH.unsqueeze(1)
    return rotated_BNTH.to(x_BNTH.dtype)
