"""A table that is the embedding of the first stage and the output layer of the last one.

Both hold all of it, cut in the same way over the ranks of their stages, and an optimizer state of
their own. With the same sum of gradients, both make the same update.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distrain.dtensor import is_dtensor
from distrain.parallel.ranks import Ranks


@torch.no_grad()
def add_other_half(table: nn.Parameter, ranks: Ranks) -> None:
    """Add the gradient of the other half to that of this one. Of the first and the last rank.

    The sum has the same bits on both, for there are two terms.

    Args:
        table: This rank's half, with its gradient of all microbatches.
        ranks: Of the run.
    """
    group, last = ranks.group("pipeline"), ranks.layout.size("pipeline") - 1
    peer = 0 if ranks.place["pipeline"] == last else last
    if group is not None:
        peer = dist.get_global_rank(group, peer)
    if table.grad is None:
        table.grad = torch.zeros_like(table)
    own = _local(table.grad)
    if not own.numel():
        return  # a shard without rows, on both
    given = own.contiguous()
    other = torch.empty_like(given)
    ops = [dist.P2POp(dist.isend, given, peer, group), dist.P2POp(dist.irecv, other, peer, group)]
    for work in dist.batch_isend_irecv(ops):
        work.wait()
    own.add_(other)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if is_dtensor(tensor) else tensor
