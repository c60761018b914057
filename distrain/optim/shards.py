"""Shards of FSDP2, for optimizers that need more of a parameter than an element."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from distrain.dtensor import is_dtensor
from distrain.optim.elementwise import local


def shard_group(parameter: Tensor) -> dist.ProcessGroup | None:
    """Return the ranks that hold the shards of a parameter; ``None`` where each holds all of it.

    Raises:
        ValueError: It is cut along another axis than its first one, or along two.
    """
    if not is_dtensor(parameter):
        return None
    cut = [axis for axis, place in enumerate(parameter.placements) if not place.is_replicate()]
    if not cut:
        return None
    if len(cut) > 1 or not parameter.placements[cut[0]].is_shard(dim=0):
        raise ValueError(f"a parameter is placed as {parameter.placements}, not cut by rows")
    return parameter.device_mesh.get_group(cut[0])


def is_cut_within(parameter: Tensor) -> bool:
    """Return whether a shard holds only some rows of a matrix.

    Of experts, shape (E, R, C), it holds some matrices, each whole.
    """
    return parameter.ndim <= 2 and shard_group(parameter) is not None


def cut_like(parameter: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a tensor that is cut along its first axis as the parameter is.

    Args:
        parameter: Its placement is taken.
        values: Of this rank.
        shape: Of the whole.
    """
    if not is_dtensor(parameter):
        return values
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        values,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=torch.empty(tuple(shape), device="meta").stride(),
    )


def same_everywhere(parameter: Tensor, values: Tensor) -> Tensor:
    """Return a tensor that is the same on every rank of the parameter's."""
    if not is_dtensor(parameter):
        return values
    from torch.distributed.tensor import DTensor, Replicate

    mesh = parameter.device_mesh
    return DTensor.from_local(values, mesh, [Replicate()] * mesh.ndim, run_check=False)


def sum_over_shards(tensors: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    """Add up, in place, what each shard of its parameter has; one exchange for all. Collective."""
    by_group: dict[dist.ProcessGroup, list[Tensor]] = {}
    for tensor, parameter in zip(tensors, parameters, strict=True):
        group = shard_group(parameter)
        if group is not None:
            by_group.setdefault(group, []).append(tensor)
    for group, parts in by_group.items():
        flat = torch.cat([part.reshape(-1) for part in parts])
        dist.all_reduce(flat, group=group)
        sums = flat.split([part.numel() for part in parts])
        torch._foreach_copy_(parts, [s.view_as(p) for s, p in zip(sums, parts, strict=True)])


def gather_round(parts: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor | None:
    """Bring together one matrix for each of the ranks, by rows. Collective.

    Args:
        parts: This rank's rows of at most as many matrices as there are ranks.
        parameters: What they are shards of, cut by rows in one group.

    Returns:
        The whole matrix whose number in the list is that of this rank; ``None`` past their end.
    """
    group = shard_group(parameters[0])
    assert group is not None
    whole = None
    for number, (part, parameter) in enumerate(zip(parts, parameters, strict=True)):
        is_mine = dist.get_rank(group) == number
        padded = _padded(part, parameter, group)
        gathered = [torch.empty_like(padded) for _ in range(group.size())] if is_mine else None
        dist.gather(padded, gathered, group=group, group_dst=number)
        if gathered is not None:
            whole = torch.cat(gathered)[: parameter.shape[0]]
    return whole


def scatter_round(
    whole: Tensor | None, parts: Sequence[Tensor], parameters: Sequence[Tensor]
) -> None:
    """Write each rank's rows into ``parts``: the inverse of ``gather_round``. Collective."""
    group = shard_group(parameters[0])
    assert group is not None
    for number, (part, parameter) in enumerate(zip(parts, parameters, strict=True)):
        received, sent = _padded(part, parameter, group), None
        if dist.get_rank(group) == number:
            assert whole is not None
            rows = torch.nn.functional.pad(
                whole, (0, 0, 0, len(received) * group.size() - len(whole))
            )
            sent = list(rows.to(received.dtype).contiguous().chunk(group.size()))
        dist.scatter(received, sent, group=group, group_src=number)
        part.copy_(received[: len(part)])


def _padded(part: Tensor, parameter: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return a rank's rows, and zeros up to the most that any rank has."""
    rows = -(-parameter.shape[0] // group.size())  # as torch.chunk cuts
    return torch.nn.functional.pad(local(part), (0, 0, 0, rows - len(part))).contiguous()
