"""The layer that scores every token of the vocabulary, with the loss of its scores.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, D = hidden size, V =
vocabulary, G = groups of rows.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from distrain.config.training import LossConfig
from distrain.loss import CROSS_ENTROPY, LossTerms, target_hits, target_losses
from distrain.models.chunked_loss import ChunkedLoss
from distrain.models.vocabulary_part import VocabularyPart


class OutputLayer(nn.Linear):
    """A linear layer that computes logits, or losses without handing the logits out.

    The loss is taken within this module's ``forward``, where an engine that cuts parameters has
    gathered the weight (FSDP2 by its root's hooks, ZeRO-3 by those of each module).

    Args:
        in_features: Hidden size, D.
        out_features: Rows of the vocabulary, V.
        bias: Whether there is one.
        scale: By which the products are multiplied.
        softcap: c of ``c * tanh(logits / c)`` (arXiv 2408.00118, section 2), after the scale.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        scale: float = 1.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.scale = scale
        self.softcap = softcap
        self.loss = LossConfig()
        self.vocabulary: VocabularyPart | None = None
        """Which tokens the parameters here score; ``None``: all. Results are the same."""

    @classmethod
    def of(cls, linear: nn.Linear, *, scale: float = 1.0, softcap: float | None = None) -> Self:
        """Make one of the very parameters of a plain linear layer, which may be tied."""
        with torch.device("meta"):  # what is made here is thrown away at once
            layer = cls(linear.in_features, linear.out_features, scale=scale, softcap=softcap)
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer

    def forward(
        self,
        hidden: Tensor,
        target_ids: Tensor | None = None,
        rows: Sequence[int] | None = None,
        *,
        with_hits: bool = False,
    ) -> Tensor:
        """Compute losses of targets or, without targets, logits.

        Args:
            hidden: Last hidden states, shape (B, T, D).
            target_ids: What follows each position, or ``IGNORE_INDEX``; shape (B, T), int64.
            rows: How to sum up the losses; see ``distrain.loss.target_losses``.
            with_hits: Also count the targets that have the highest score; without gradients.

        Returns:
            Losses in nats, float32 at least: shape (G,) with ``rows``, else (B, T). With hits,
            losses and counts in one tensor of one dimension more, (2, ...). Without
            ``target_ids``, logits of shape (B, T, V).
        """
        if target_ids is None:
            return self._logits(hidden)
        terms = self._terms()
        chunk_tokens = self._chunk_tokens(hidden, target_ids.numel())
        if chunk_tokens is None:
            logits = self._logits(hidden)
            losses = target_losses(logits, target_ids, rows, terms)
            if not with_hits:
                return losses
            return _with_hits(losses, target_hits(logits, target_ids), rows)
        loss = ChunkedLoss(chunk_tokens, self.scale, self.softcap, terms, self.vocabulary)
        if not with_hits:
            return loss(hidden, self.weight, self.bias, target_ids, rows)
        hits = torch.empty_like(target_ids, dtype=torch.bool)
        losses = loss(hidden, self.weight, self.bias, target_ids, rows, hits)
        return _with_hits(losses, hits, rows)

    def _chunk_tokens(self, hidden: Tensor, num_tokens: int) -> int | None:
        """Return the positions whose logits are made at a time; ``None``: by a plain loss."""
        part, size = self.vocabulary, self.out_features
        if part is not None:
            size = part.stop - part.start
        logits_bytes = torch.promote_types(hidden.dtype, torch.float32).itemsize
        chunk_tokens = self.loss.tokens_of_chunk(
            num_tokens, size, logits_bytes, on_gpu=hidden.is_cuda
        )
        # The loss in chunks alone knows parts; one chunk holds all that fits.
        return num_tokens if chunk_tokens is None and part is not None else chunk_tokens

    def _terms(self) -> LossTerms:
        """Return what is added to the loss: nothing where it is measured and not trained on."""
        if not self.training:
            return CROSS_ENTROPY
        return LossTerms(self.loss.label_smoothing, self.loss.z_loss)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = super().forward(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits if self.vocabulary is None else self.vocabulary.gathered(logits)


def _with_hits(losses: Tensor, hits_BT: Tensor, rows: Sequence[int] | None) -> Tensor:
    """Put losses, and hits summed up in the same groups, into one tensor."""
    if rows is None:
        return torch.stack([losses, hits_BT.to(losses.dtype)])
    counts = [group.sum() for group in hits_BT.split(tuple(rows))]
    return torch.stack([losses, torch.stack(counts).to(losses.dtype)])
