"""Embedding and output layer, cut by tokens."""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

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
