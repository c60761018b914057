"""A rank's part of a global N-D tensor: the one form in which every engine shows its state.

A parameter, master weight or optimizer moment is one ordinary global tensor under its plain
name. An FSDP2 shard is one axis-aligned box of it. A DeepSpeed ZeRO shard is a contiguous
row-major range, which splits into at most ``2 * ndim - 1`` boxes, each a *view* of the flat shard:
reading or writing the box reads or writes the engine's own memory.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from distrain.dtensor import own_parts
from distrain.models.weights.source import EVERYTHING, Place, TensorWeights, WeightSource

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Box:
    """An axis-aligned part of a global tensor.

    Args:
        offsets: Where it begins in the global tensor, one number an axis.
        tensor: Its values; shape = the extent of the box. A view of the engine's memory.
    """

    offsets: tuple[int, ...]
    tensor: Tensor

    @property
    def sizes(self) -> tuple[int, ...]:
        """Extent of the box, one number an axis."""
        return tuple(self.tensor.shape)


@dataclass(frozen=True)
class GlobalTensor:
    """A rank's boxes of one global tensor; a rank may hold none.

    Args:
        shape: Shape of the whole tensor; a scalar is stored with shape ``(1,)``.
        dtype: Type of the elements.
        boxes: This rank's parts.
        writes: Whether this rank writes its boxes. False on all but one of the ranks that hold
            the same values (a replica); every rank still reads them back.
        is_claimed_equal: Every rank holds all of it, and nothing but the word of whoever made it
            says that they hold the same; a save verifies it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    boxes: tuple[Box, ...]
    writes: bool = True
    is_claimed_equal: bool = False

    def like(self, tensors: Sequence[Tensor]) -> "GlobalTensor":
        """Make the same part of the same tensor over other memory, one tensor a box."""
        boxes = tuple(
            Box(box.offsets, tensor) for box, tensor in zip(self.boxes, tensors, strict=True)
        )
        return replace(self, boxes=boxes)


State = dict[str, GlobalTensor]
"""Entry name -> this rank's part: ``model/<fqn>``, ``buffer/<fqn>``, ``<the optimizer's>/<fqn>``.

The names, their order and the shapes are the same on every rank.
"""


def whole(tensor: Tensor, *, writes: bool) -> GlobalTensor:
    """Show a tensor that this rank holds completely."""
    view = tensor.detach().reshape(1) if tensor.ndim == 0 else tensor.detach()
    box = Box((0,) * view.ndim, view)
    return GlobalTensor(tuple(view.shape), view.dtype, (box,), writes)


def from_dtensor(tensor: "DTensor", *, is_copy: bool, packed: Sequence[int] = ()) -> GlobalTensor:
    """Show what this rank holds of a DTensor; of replicas, the first one writes.

    Args:
        tensor: Laid over a mesh.
        is_copy: Whether another rank, outside of the tensor's mesh, holds the same and writes it.
        packed: See ``distrain.dtensor.own_parts``.
    """
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "a rank outside of the mesh holds no state"
    is_first = not is_copy and all(
        place == 0
        for place, placement in zip(coordinate, tensor.placements, strict=True)
        if placement.is_replicate()
    )
    # A tensor with fewer rows than ranks leaves nothing to the last ones.
    parts = own_parts(tensor.detach(), packed)
    if tensor.ndim == 0:
        return whole(parts[0][1], writes=is_first)
    boxes = tuple(Box(offsets, view) for offsets, view in parts)
    return GlobalTensor(tuple(tensor.shape), tensor.dtype, boxes, is_first)


def from_flat_range(shape: Sequence[int], start: int, values: Tensor) -> GlobalTensor:
    """Show a row-major range ``[start, start + len(values))`` of a global tensor, without a copy.

    Args:
        shape: Shape of the whole tensor.
        start: Row-major index of the first element held.
        values: The elements, shape (n,), contiguous; n may be 0.
    """
    # A scalar is stored with one axis, so that it can be cut like any other tensor.
    shape = tuple(shape) or (1,)
    boxes = tuple(
        Box(offsets, values.narrow(0, first - start, math.prod(sizes)).view(sizes))
        for offsets, sizes, first in range_boxes(shape, start, start + values.numel())
    )
    return GlobalTensor(shape, values.dtype, boxes)


def range_boxes(
    shape: tuple[int, ...], start: int, stop: int
) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Cut the row-major range ``[start, stop)`` of ``shape`` into axis-aligned boxes.

    Returns:
        (offsets, sizes, row-major index of the first element) of each box, in row-major order.
    """
    if start >= stop:
        return []
    if len(shape) == 1:
        return [((start,), (stop - start,), start)]
    # Whole rows of the first axis make one box; what is left of a row at either end is a range of
    # the axes below, and cut in the same way.
    inner = math.prod(shape[1:])
    first_row, head = divmod(start, inner)
    last_row, tail = divmod(stop, inner)
    boxes: list[tuple[tuple[int, ...], tuple[int, ...], int]] = []

    def add_part_of_row(row: int, low: int, high: int) -> None:
        for offsets, sizes, first in range_boxes(shape[1:], low, high):
            boxes.append(((row, *offsets), (1, *sizes), row * inner + first))

    if first_row == last_row:
        add_part_of_row(first_row, head, tail)
        return boxes
    if head:
        add_part_of_row(first_row, head, inner)
        first_row += 1
    if last_row > first_row:
        offsets = (first_row,) + (0,) * (len(shape) - 1)
        boxes.append((offsets, (last_row - first_row, *shape[1:]), first_row * inner))
    if tail:
        add_part_of_row(last_row, 0, tail)
    return boxes


def gather_full(state: State) -> dict[str, Tensor]:
    """Put the whole tensors together, bit by bit as they are, in host memory. Collective.

    Every rank receives all of them, so this is for models that fit one host: exports and tests.
    """
    distributed = dist.is_initialized() and dist.get_world_size() > 1
    on_gpu = distributed and dist.get_backend() == "nccl"
    device = torch.device("cuda") if on_gpu else torch.device("cpu")
    full: dict[str, Tensor] = {}
    for name, entry in state.items():
        tensor = torch.zeros(entry.shape, dtype=entry.dtype, device=device)
        # From one replica only: the bytes of several would add up to others.
        for box in entry.boxes if entry.writes else ():
            tensor[place_of(box)] = box.tensor
        if distributed:
            # Each byte is set on one rank and zero on the others: the sum moves bits unchanged.
            dist.all_reduce(tensor.view(torch.uint8))
        full[name] = tensor.cpu()
    return full


def write_parts(state: State, source: WeightSource, name_of: Callable[[str], str]) -> None:
    """Fill this rank's boxes, reading no more than they hold. Not collective.

    Args:
        state: What to fill.
        source: Of the values; type and device are converted on the way.
        name_of: Entry name -> name in the source.
    """
    for entry_name, entry in state.items():
        name = name_of(entry_name)
        for box in entry.boxes:
            place = place_of(box) if source.forms[name].shape else EVERYTHING
            # Into the engine's own memory.
            box.tensor.copy_(source.read(name, place).reshape(box.sizes))


def write_full(state: State, tensors: Mapping[str, Tensor]) -> None:
    """Cut whole tensors into this rank's boxes: the inverse of ``gather_full``. Not collective."""
    shaped = {name: tensors[name].reshape(entry.shape) for name, entry in state.items()}
    write_parts(state, TensorWeights(shaped), str)


def place_of(box: Box) -> Place:
    """Say which part of the global tensor a box is."""
    return tuple(
        slice(start, start + size) for start, size in zip(box.offsets, box.sizes, strict=True)
    )
