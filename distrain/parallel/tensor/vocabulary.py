"""Embedding and output layer, cut by tokens."""

from dataclasses import dataclass
from functools import wraps

import torch.distributed as dist
from torch import Tensor, nn

from distrain.parallel.tensor.peers import TensorPeers, bounds


@dataclass(frozen=True)
class TensorVocabulary:
    """The tokens of one rank: a ``distrain.models.vocabulary_part.VocabularyPart``.

    Args:
        peers: That hold the others.
        size: Tokens of the whole vocabulary.
    """

    peers: TensorPeers
    size: int

    @property
    def start(self) -> int:
        """The first token here."""
        return bounds(self.size, self.peers.size, self.peers.place)[0]

    @property
    def stop(self) -> int:
        """Behind the last one."""
        return bounds(self.size, self.peers.size, self.peers.place)[1]

    def holds(self, token: int) -> bool:
        """Return whether a token is here."""
        return self.start <= token < self.stop

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up over the parts, in place."""
        dist.all_reduce(tensor, group=self.peers.group)
        return tensor

    def max_(self, tensor: Tensor) -> Tensor:
        """Take the largest over the parts, in place."""
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.peers.group)
        return tensor

    def gathered(self, logits: Tensor) -> Tensor:
        """Lay the scores of all parts side by side."""
        return self.peers.gathered(logits, logits.ndim - 1, self.size)


def look_up_own(embedding: nn.Embedding, part: TensorVocabulary) -> None:
    """Let an embedding whose rows are those of ``part`` give whole values.

    Each rank looks up its own tokens and has zeros for the others; families that scale what they
    look up scale the zeros, too.
    """
    inner = embedding.forward
    padding = embedding.padding_idx
    if padding is not None:  # an index into the rows that are here
        embedding.padding_idx = padding - part.start if part.holds(padding) else None

    @wraps(inner)
    def forward(input_ids: Tensor) -> Tensor:
        is_own = (input_ids >= part.start) & (input_ids < part.stop)
        rows = inner((input_ids - part.start) * is_own)
        return part.peers.summed(rows * is_own.unsqueeze(-1))

    embedding.forward = forward  # type: ignore[method-assign, assignment]
