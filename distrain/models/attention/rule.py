"""What a family of models changes about the scores of attention."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttentionRule:
    """How scores become weights, beside causality and documents.

    Args:
        scale: Factor of the scores; ``None``: 1 over the root of the size of a query head.
        window: A query sees itself and the ``window - 1`` positions before it in its document;
            ``None``: all of them (Mistral, arXiv 2310.06825, section 2).
        softcap: Scores s become ``softcap * tanh(s / softcap)`` (Gemma 2, arXiv 2408.00118,
            section 2); ``None``: they stay.
        sinks: Score of a key without a value that each query sees too, shape (N,), learned
            (gpt-oss; arXiv 2309.17453, section 3); ``None``: there is none.
        dropout: Share of the weights that becomes 0; the caller gives 0 outside training.
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    dropout: float = 0.0


PLAIN = AttentionRule()
"""Scores scaled by the root of the head size, and nothing else."""
