"""What an output layer asks for where it scores only some of the tokens.

Shape legend: N = positions, V = tokens of the vocabulary scored here.
"""

from typing import Protocol

import torch
from torch import Tensor


class VocabularyPart(Protocol):
    """Neighbouring tokens of a vocabulary that is divided among ranks; never none of them.

    Every method is collective among the ranks that share it.
    """

    @property
    def start(self) -> int:
        """The first token here."""

    @property
    def stop(self) -> int:
        """Behind the last one."""

    @property
    def size(self) -> int:
        """Tokens of the whole vocabulary."""

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up over the parts, in place and without gradients; the same bits on every rank."""

    def max_(self, tensor: Tensor) -> Tensor:
        """Take the largest over the parts, in place and without gradients."""

    def gathered(self, logits: Tensor) -> Tensor:
        """Lay the scores of all parts side by side along the last axis, with gradients."""


def best_tokens(logits_NV: Tensor, part: VocabularyPart) -> Tensor:
    """Return the token with the highest score in any part, shape (N,); of equal ones the first."""
    here_N = logits_NV.argmax(1, keepdim=True)
    score_N = logits_NV.gather(1, here_N)
    highest_N = part.max_(score_N.clone())
    # The smallest of the candidates is minus the largest of their negatives.
    candidates = torch.where(score_N == highest_N, here_N + part.start, part.size)
    return part.max_(-candidates).neg().squeeze(1)
