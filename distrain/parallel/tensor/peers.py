"""The ranks that share each tensor of a model, and how activations pass between them.

A value is *whole* (the same on every rank), a *part* (of one of its dims, cut as ``torch.chunk``
does), or *summands* (to be added up over the ranks). Each transition has an adjoint for the
gradient, and that depends on what is done with the value: where every rank goes on to compute the
same, the gradient that comes back is whole; where each goes on with its part of a layer, it comes
back as summands (Megatron's f and g, arXiv 1909.08053; of sequences, arXiv 2205.05198).
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

Move = Callable[[Tensor], Tensor]


def bounds(size: int, parts: int, place: int) -> tuple[int, int]:
    """Return begin and end of a part, as ``torch.chunk`` cuts; the last ones may be empty."""
    step = -(-size // parts)
    return min(place * step, size), min((place + 1) * step, size)


class TensorPeers:
    """This rank's place among those that share each tensor. All methods but those are collective.

    Args:
        mesh: Their axis of the layout.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh
        self.group = mesh.get_group()
        self.size = mesh.size()
        self.place = mesh.get_local_rank()

    def copied(self, whole: Tensor) -> Tensor:
        """Hand a whole value to layers of which each rank has a part."""
        return _move(whole, _same, self._added)

    def summed(self, summands: Tensor) -> Tensor:
        """Make summands whole."""
        return _move(summands, self._added, _same)

    def gathered(self, part: Tensor, dim: int, size: int | None = None) -> Tensor:
        """Make parts whole, for what every rank computes alike.

        Args:
            part: Of this rank.
            dim: Along which the parts lie, counted from the front.
            size: Of the whole; by default all parts are of one size.
        """
        size = part.shape[dim] * self.size if size is None else size
        return _move(part, partial(self._joined, dim=dim, size=size), partial(self._own, dim=dim))

    def gathered_for_parts(self, part: Tensor, dim: int) -> Tensor:
        """Make parts of one size whole, for layers of which each rank has a part."""
        size = part.shape[dim] * self.size
        there = partial(self._joined, dim=dim, size=size)
        return _move(part, there, partial(self._own_sum, dim=dim))

    def own_part(self, whole: Tensor, dim: int) -> Tensor:
        """Cut a whole value; its gradient is whole again."""
        back = partial(self._joined, dim=dim, size=whole.shape[dim])
        return _move(whole, partial(self._own, dim=dim), back)

    def summed_part(self, summands: Tensor, dim: int) -> Tensor:
        """Make summands into parts of one size: what ``summed`` and ``own_part`` do, in one."""
        back = partial(self._joined, dim=dim, size=summands.shape[dim])
        return _move(summands, partial(self._own_sum, dim=dim), back)

    def added_once(self, whole: Tensor) -> Tensor:
        """Make a whole value, such as a bias, a summand of one rank. No collective.

        Its gradient is whole already: that of a sum is the same for each summand.
        """
        return _move(whole, _same if self.place == 0 else torch.zeros_like, _same)

    def _added(self, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self.group)
        return total

    def _own(self, tensor: Tensor, dim: int) -> Tensor:
        start, stop = bounds(tensor.shape[dim], self.size, self.place)
        # A copy: the whole is not to be kept alive by a view of a part.
        return tensor.narrow(dim, start, stop - start).clone(memory_format=torch.contiguous_format)

    def _joined(self, tensor: Tensor, dim: int, size: int) -> Tensor:
        step = -(-size // self.size)
        front = tensor.movedim(dim, 0)
        if len(front) < step:  # every rank sends as much
            front = F.pad(front, [0, 0] * (front.ndim - 1) + [0, step - len(front)])
        front = front.contiguous()
        whole = front.new_empty(self.size * step, *front.shape[1:])
        dist.all_gather_single(whole, front, group=self.group)
        return whole[:size].movedim(0, dim).contiguous()

    def _own_sum(self, tensor: Tensor, dim: int) -> Tensor:
        front = tensor.movedim(dim, 0).contiguous()
        part = front.new_empty(len(front) // self.size, *front.shape[1:])
        dist.reduce_scatter_single(part, front, group=self.group)
        return part.movedim(0, dim).contiguous()


def _same(tensor: Tensor) -> Tensor:
    return tensor.view_as(tensor)


class _Context(Protocol):
    back: Move


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, tensor: Tensor, there: Move, back: Move) -> Tensor:
        ctx.back = back
        return there(tensor)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(gradient), None, None


def _move(tensor: Tensor, there: Move, back: Move) -> Tensor:
    return cast(Tensor, _Moved.apply(tensor, there, back))  # type: ignore[no-untyped-call]
