"""The residual stream between layers, cut by positions or not (sequence parallelism).

With it, each rank keeps and normalizes its own positions (arXiv 2205.05198): the sum behind a layer
becomes a sum of which each rank gets its positions, and what had been a copy before a layer gathers
them. The same is sent in all, and less is kept.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, D = hidden size.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from torch import Tensor, nn

from distrain.models.causal_lm import CausalLM
from distrain.parallel.local_forward import on_first_input, on_first_output, wrap_forward
from distrain.parallel.tensor.peers import TensorPeers

POSITIONS = 1
"""The dim of positions in (B, T, D)."""


class ResidualStream:
    """How hidden states pass between the stream and the layers that read and write it.

    Args:
        peers: Among which it may be cut.
    """

    def __init__(self, peers: TensorPeers) -> None:
        self._peers = peers
        self._is_cut = False

    def is_cut(self) -> bool:
        """Whether it is in the forward pass that began last, and in its backward pass."""
        return self._is_cut

    def enter_parts(self, hidden: Tensor) -> Tensor:
        """Hand the stream to layers of which each rank has a part."""
        if self._is_cut:
            return self._peers.gathered_for_parts(hidden, POSITIONS)
        return self._peers.copied(hidden)

    def leave_parts(self, summands: Tensor) -> Tensor:
        """Add up what the parts of a layer write to the stream."""
        if self._is_cut:
            return self._peers.summed_part(summands, POSITIONS)
        return self._peers.summed(summands)

    def enter_whole(self, hidden: Tensor) -> Tensor:
        """Hand the stream to code that computes the same on every rank."""
        return self._peers.gathered(hidden, POSITIONS) if self._is_cut else hidden

    def leave_whole(self, hidden: Tensor) -> Tensor:
        """Write to the stream what every rank has computed alike."""
        return self._peers.own_part(hidden, POSITIONS) if self._is_cut else hidden

    def cut_between(self, model: CausalLM, blocks: Sequence[nn.Module]) -> None:
        """Cut the stream from the first block to the last, whenever positions divide evenly.

        Embeddings, and what else comes before and after the blocks, sees all positions. A
        microbatch whose length does not divide, and text that is written token by token, is not
        cut.
        """
        wrap_forward(blocks[0], enter=on_first_input(self.leave_whole))
        wrap_forward(blocks[-1], leave=on_first_output(self.enter_whole))
        # Set before a pass, and left so for its backward pass, which may compute blocks again.
        for name, may_cut in (("hidden_states", True), ("next_hidden_states", False)):
            setattr(model, name, self._begun(getattr(model, name), may_cut))

    def _begun(self, run: Callable[..., Tensor], may_cut: bool) -> Callable[..., Tensor]:
        @wraps(run)
        def begin(input_ids: Tensor, *args: Any, **keywords: Any) -> Tensor:  # noqa: ANN401
            self._is_cut = may_cut and input_ids.shape[POSITIONS] % self._peers.size == 0
            return run(input_ids, *args, **keywords)

        return begin
