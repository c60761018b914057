"""Parameters cut over peers: stored as DTensors, read as plain tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from distrain.parallel.tensor.peers import TensorPeers, bounds

Reading = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ParameterCut:
    """What becomes of one parameter.

    Args:
        dim: Along which each rank has a part; ``None``: every rank has all of it.
        blocks: Sizes of matrices that lie one after the other along ``dim``, each cut by itself.
        is_added_once: Whether it is added to summands, and so must be there on one rank only.
        adds_up: Whether each rank computes with all of it, and gets a summand of its gradient.
    """

    dim: int | None = None
    blocks: tuple[int, ...] | None = None
    is_added_once: bool = False
    adds_up: bool = False


WHOLE = ParameterCut()


def cut_parameter(whole: nn.Parameter, cut: ParameterCut, peers: TensorPeers) -> nn.Parameter:
    """Make the DTensor of a parameter, which may be on the meta device. Not collective."""
    part = whole.detach()
    if cut.dim is not None:
        part = part_of(part, cut.dim, cut.blocks, peers.size, peers.place)
    # Of packed matrices the placement tells the size of a part, and not which rows are in it: that
    # is the ``packed`` of the model.
    placement = Replicate() if cut.dim is None else Shard(cut.dim)
    stored = DTensor.from_local(
        part,
        peers.mesh,
        [placement],
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )
    return nn.Parameter(stored, requires_grad=whole.requires_grad)


def part_of(
    whole: Tensor, dim: int, blocks: Sequence[int] | None, parts: int, place: int
) -> Tensor:
    """Copy one rank's part of a tensor: of each block its own."""
    pieces = []
    for block in whole.split(list(blocks or (whole.shape[dim],)), dim):
        start, stop = bounds(block.shape[dim], parts, place)
        pieces.append(block.narrow(dim, start, stop - start))
    return torch.cat(pieces, dim)


def read_whole_gradient(stored: Tensor) -> Tensor:
    """Read what the module computes with; the gradient is that of this rank's part, or whole."""
    assert isinstance(stored, DTensor)
    return stored.to_local()


def read_summand(stored: Tensor) -> Tensor:
    """Read a parameter whose gradient is to be added up over the peers: FSDP2 does, when it must.

    Once a step, that is, and not once a microbatch.
    """
    assert isinstance(stored, DTensor)
    return stored.to_local(grad_placements=[Partial()])


def reading(cut: ParameterCut, peers: TensorPeers, in_stream: Callable[[], bool]) -> Reading:
    """Return how a parameter is read.

    Args:
        cut: What became of it.
        peers: That share it.
        in_stream: Whether the module sees its rank's positions only, in the pass that begins.
    """
    if cut.is_added_once:
        return lambda stored: peers.added_once(read_whole_gradient(stored))
    if cut.adds_up:
        return read_summand
    return lambda stored: (read_summand if in_stream() else read_whole_gradient)(stored)
