"""What is a DTensor and what a rank holds of one, without importing the class (0.4 s)."""

import sys
from collections.abc import Sequence
from itertools import accumulate, product
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement

Run = tuple[int, int]
"""Neighbouring places of one axis of a tensor: the first one, and how many."""


def is_dtensor(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return whether a tensor is a DTensor; where nobody has imported the class, none is."""
    # Another thread may be about to import the module: it is there then, and the class is not.
    known = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return known is not None and isinstance(tensor, known)


def own_parts(tensor: Tensor, packed: Sequence[int] = ()) -> list[tuple[tuple[int, ...], Tensor]]:
    """Return what this rank holds of a tensor, as rectangular parts of the whole.

    Args:
        tensor: Plain (held whole) or a DTensor.
        packed: Sizes of the matrices that lie one behind the other along the axis that the last
            axis of the mesh cuts, each of which was cut by itself; none: it is one matrix.

    Returns:
        Of each part where it begins, one number an axis, and its values: a view of the tensor.

    Raises:
        ValueError: It is a sum over ranks that was not taken yet.
    """
    if not is_dtensor(tensor):
        return [((0,) * tensor.ndim, tensor)]
    mesh, local = tensor.device_mesh, tensor.to_local()
    place = mesh.get_coordinate()
    assert place is not None, "a rank outside of the mesh holds nothing"
    if any(placement.is_partial() for placement in tensor.placements):
        placed = tensor.placements
        raise ValueError(f"a tensor placed as {placed} has a sum over ranks still to come")
    runs: list[list[Run]] = [[(0, size)] for size in tensor.shape]
    for number in _order_of_cuts(tensor.placements):
        axis: int = tensor.placements[number].dim  # type: ignore[attr-defined]
        sizes = packed if packed and number == mesh.ndim - 1 else ()
        runs[axis] = _cut(runs[axis], place[number], mesh.size(number), sizes)
    if local.ndim == 0:
        return [((), local)]
    parts = []
    # Where a run begins in the whole and where in what is held, axis by axis.
    by_axis = [
        list(zip(of_axis, accumulate((size for _, size in of_axis), initial=0), strict=False))
        for of_axis in runs
    ]
    for chosen in product(*by_axis):
        view = local
        for axis, ((_, size), held_from) in enumerate(chosen):
            view = view.narrow(axis, held_from, size)
        parts.append((tuple(start for (start, _), _ in chosen), view))
    return [(offsets, view) for offsets, view in parts if view.numel()]


def _order_of_cuts(placements: "Sequence[Placement]") -> list[int]:
    """Return the mesh's axes that cut, in the order in which they did.

    From the first to the last; those that FSDP2 calls strided cut what all others have left.
    """
    cutting = [n for n, placement in enumerate(placements) if not placement.is_replicate()]
    strided = [n for n in cutting if not placements[n].is_shard()]
    return [n for n in cutting if n not in strided] + strided[::-1]


def _cut(runs: Sequence[Run], place: int, count: int, packed: Sequence[int]) -> list[Run]:
    """Return what is left of an axis on one of ``count`` ranks, as ``torch.chunk`` cuts."""
    total = sum(size for _, size in runs)
    left: list[Run] = []
    begin = 0
    for size in packed or (total,):
        step = -(-size // count)
        low, high = min(place * step, size), min((place + 1) * step, size)
        left += _between(runs, begin + low, begin + high)
        begin += size
    return left


def _between(runs: Sequence[Run], low: int, high: int) -> list[Run]:
    """Return the runs between two places, counted over what the runs hold."""
    found, before = [], 0
    for start, size in runs:
        first, last = max(low, before), min(high, before + size)
        if first < last:
            found.append((start + first - before, last - first))
        before += size
    return found
