"""Layer 6, the loss.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, V = vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distrain.config.tasks import IGNORE_INDEX


@dataclass(frozen=True)
class LossTerms:
    """What the loss of a target has besides its cross-entropy. It is for training only.

    Args:
        label_smoothing: Share of the target's probability that is spread over all tokens
            (arXiv 1512.00567, section 7).
        z_loss: c of ``c * log(Z)^2``, Z the sum of the exponentials of the logits: it keeps them
            from drifting (arXiv 2204.02311, section 5).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0


CROSS_ENTROPY = LossTerms()
"""Nothing besides it."""


def summed_cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Sum next-token cross-entropy over the positions that are trained on.

    The result is a sum, not a mean: only the caller knows how many targets the global batch
    holds, and a mean of means weighs short microbatches too heavily.

    Args:
        logits_BTV: Unnormalized scores, shape (B, T, V), any float dtype.
        targets_BT: Token ids in [0, V) or ``IGNORE_INDEX``, shape (B, T), int64; position t
            holds the token that follows input t.

    Returns:
        Scalar in nats; 0 without targets. Taken in float32, or in float64 for float64 logits.

    Raises:
        ValueError: The first two axes of the arguments differ.
    """
    return _cross_entropy(logits_BTV, targets_BT, "sum", CROSS_ENTROPY)


def target_losses(
    logits_BTV: Tensor,
    targets_BT: Tensor,
    rows: Sequence[int] | None = None,
    terms: LossTerms = CROSS_ENTROPY,
) -> Tensor:
    """Compute next-token cross-entropy, in nats, as ``summed_cross_entropy`` does.

    Args:
        logits_BTV: Unnormalized scores, shape (B, T, V), any float dtype.
        targets_BT: Shape (B, T).
        rows: Sizes of groups of neighbouring rows that make up the batch, G in number.
        terms: What to add to it.

    Returns:
        The sum over each group, shape (G,); without ``rows``, the loss of each target, shape
        (B, T), 0 where there is none.

    Raises:
        ValueError: The shapes disagree, or the groups are not the batch.
    """
    if rows is None:
        return _cross_entropy(logits_BTV, targets_BT, "none", terms).view_as(targets_BT)
    if sum(rows) != len(targets_BT):
        raise ValueError(f"groups of {tuple(rows)} rows in a batch of {len(targets_BT)}")
    if len(rows) == 1:
        return _cross_entropy(logits_BTV, targets_BT, "sum", terms).unsqueeze(0)
    # Not a sum over losses of targets: bit by bit that of a batch which holds this group alone.
    groups = zip(logits_BTV.split(rows), targets_BT.split(rows), strict=True)
    return torch.stack([_cross_entropy(*group, "sum", terms) for group in groups])


def target_hits(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Return whether each target has the highest score, shape (B, T); of equal ones the first."""
    return logits_BTV.argmax(-1) == targets_BT


def _cross_entropy(
    logits_BTV: Tensor, targets_BT: Tensor, reduction: str, terms: LossTerms
) -> Tensor:
    if logits_BTV.shape[:2] != targets_BT.shape:
        raise ValueError(
            f"logits {tuple(logits_BTV.shape)} and targets {tuple(targets_BT.shape)} "
            "must agree in (B, T)"
        )
    # A copy only for 16-bit logits: bf16 holds 8 significant bits, too few for a sum.
    exact_BTV = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
    logits_NV, targets_N = exact_BTV.flatten(0, 1), targets_BT.flatten()
    loss = F.cross_entropy(
        logits_NV,
        targets_N,
        ignore_index=IGNORE_INDEX,
        reduction=reduction,
        label_smoothing=terms.label_smoothing,
    )
    if terms.z_loss:
        log_z_N = logits_NV.logsumexp(1).masked_fill(targets_N == IGNORE_INDEX, 0)
        penalty_N = terms.z_loss * log_z_N.square()
        loss = loss + (penalty_N.sum() if reduction == "sum" else penalty_N)
    return loss
