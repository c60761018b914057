"""Keys and values of all columns, gathered over the ranks that share them.

The adjoint of gathering is to sum over ranks and keep one's own part (reduce-scatter). Each of the
two directions is begun by one node of autograd's graph and waited for by another, so that what lies
between them runs meanwhile: of the forward pass the attention of the heads gathered before, of the
backward pass that of the heads to be computed next.

Shape legend: B = sequences in a microbatch, S = columns of a whole row, T = those of a rank, K =
key and value heads, H = size of a key head, X = size of a value head.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distrain.models.attention.columns import Pending
from distrain.parallel.context.stripes import Stripes


@dataclass(frozen=True)
class StripeGathering:
    """Gathers over a group whose ranks hold stripes.

    Args:
        group: In the order of the stripes.
        stripes: How the rows are cut.
        most_parts: Into how many groups heads are cut at most.
    """

    group: dist.ProcessGroup
    stripes: Stripes
    most_parts: int = 1

    def parts(self, num_kv_heads: int) -> int:
        """See ``KeyValueGathering``."""
        fitting = range(1, min(self.most_parts, num_kv_heads) + 1)
        return max(parts for parts in fitting if num_kv_heads % parts == 0)

    def start(self, k_BKTH: Tensor, v_BKTX: Tensor) -> Pending:
        """See ``KeyValueGathering``. Both travel as one: a message costs more than a copy."""
        transfer = _Transfer(self, (k_BKTH.shape[-1], v_BKTX.shape[-1]))
        gathered = _begin(torch.cat([k_BKTH, v_BKTX], dim=-1), transfer)

        def finish() -> tuple[Tensor, Tensor]:
            k_BKSH, v_BKSX = _finish(gathered, transfer)
            return k_BKSH, v_BKSX

        return finish

    def whole(self, x: Tensor) -> Tensor:
        """Gather any tensor of this rank's columns, (..., T, H); shape (..., S, H)."""
        transfer = _Transfer(self, (x.shape[-1],))
        (whole,) = _finish(_begin(x, transfer), transfer)
        return whole


class _Transfer:
    """What is on its way between two nodes of the graph, in either direction.

    Args:
        gathering: Over which ranks.
        sizes: Of the last axes of the tensors that travel as one.
    """

    def __init__(self, gathering: StripeGathering, sizes: tuple[int, ...]) -> None:
        self.group, self.stripes, self.sizes = gathering.group, gathering.stripes, sizes
        self._work: dist.Work | None = None
        self._arriving: Tensor | None = None

    def gather(self, x: Tensor) -> Tensor:
        """Begin; returns where the parts of all ranks arrive, shape (ranks, *x.shape)."""
        x = x.contiguous()
        parts = x.new_empty(self.stripes.num_ranks, *x.shape)
        self._work = dist.all_gather_single(parts.flatten(0, 1), x, group=self.group, async_op=True)
        return parts

    def scatter_sums(self, parts: Tensor) -> None:
        """Begin to sum over ranks, each rank its own part."""
        self._arriving = torch.empty_like(parts[0])
        self._work = dist.reduce_scatter_single(
            self._arriving, parts.flatten(0, 1), group=self.group, async_op=True
        )

    def wait(self) -> None:
        """Wait until it has arrived; on a GPU only its stream waits, and not the host."""
        assert self._work is not None, "begun"
        self._work.wait()
        self._work = None

    def sums(self) -> Tensor:
        """Wait for the sums of this rank's part."""
        self.wait()
        assert self._arriving is not None, "begun"
        own, self._arriving = self._arriving, None
        return own


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, transfer: _Transfer) -> Tensor:  # noqa: ANN401
        ctx.transfer = transfer
        return transfer.gather(x)

    @staticmethod
    def backward(ctx: Any, parts: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        del parts  # what is being summed up, handed on by the other node to keep it alive
        return ctx.transfer.sums(), None


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, transfer: _Transfer) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.transfer = transfer
        transfer.wait()
        # Each is made by the one copy that brings the columns into their order.
        return tuple(map(transfer.stripes.joined, parts.split(transfer.sizes, dim=-1)))

    @staticmethod
    def backward(ctx: Any, *wholes: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        parts = torch.cat([ctx.transfer.stripes.parted(whole) for whole in wholes], dim=-1)
        ctx.transfer.scatter_sums(parts)
        return parts, None


def _begin(x: Tensor, transfer: _Transfer) -> Tensor:
    begun: Tensor = _Begin.apply(x, transfer)  # type: ignore[no-untyped-call]
    return begun


def _finish(parts: Tensor, transfer: _Transfer) -> tuple[Tensor, ...]:
    wholes: tuple[Tensor, ...] = _Finish.apply(parts, transfer)  # type: ignore[no-untyped-call]
    return wholes
