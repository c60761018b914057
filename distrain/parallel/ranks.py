"""This rank's place on the axes of a layout, the groups of ranks along them, and sums over data.

A batch is cut over the data axes (replicate and shard); ranks that differ only along another axis
read the same part of it. So whatever is counted of the data is summed over the data axes alone,
or each copy would count again. What must not differ between any two ranks is of the world.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from distrain.config.layout import Axis, Layout
from distrain.errors import RecipeError
from distrain.parallel.collectives import HostGroup


class Ranks:
    """The ranks of a stage as its layout arranges them. Making it is not collective.

    Args:
        layout: Its axes.
        host: All ranks, for what is exchanged between hosts.

    Raises:
        RecipeError: The layout is for another number of ranks.
    """

    def __init__(self, layout: Layout, host: HostGroup) -> None:
        if layout.world_size != host.world_size:
            degrees = " * ".join(f"{name} {size}" for name, size in _degrees(layout))
            raise RecipeError(
                "parallelism",
                f"{degrees} = {layout.world_size} ranks",
                f"{host.world_size}, the number of processes started",
                "Set parallelism.data_parallel_shard to auto, or start "
                f"{layout.world_size} processes.",
            )
        self.layout = layout
        self.host = host
        self.place = place_of(layout, host.rank)
        self.dp_size = layout.dp_size
        self.dp_rank = dp_rank_of(layout, host.rank)
        self.is_copy = is_copy(layout, host.rank)
        """Whether an earlier rank reads the same part of the batch, and holds the same state."""
        every = range(layout.world_size)
        self._first = [rank for rank in every if not is_copy(layout, rank)]

    @property
    def is_first(self) -> bool:
        """Whether this is the one rank that writes what all ranks hold."""
        return self.dp_rank == 0 and not self.is_copy

    def exchange(
        self, *, sums: Sequence[float] = (), maxima: Sequence[float] = ()
    ) -> tuple[list[float], list[float]]:
        """Sum over the data axes and take maxima over all ranks; see ``exchange_with``."""
        added, largest, _ = self.exchange_with(sums=sums, maxima=maxima)
        return added, largest

    def exchange_with(
        self, own: float = 0.0, *, sums: Sequence[float] = (), maxima: Sequence[float] = ()
    ) -> tuple[list[float], list[float], list[float]]:
        """Sum over the data axes, take maxima over all ranks, and collect one number of each rank.

        All in one host collective. Sums are in float64 and in rank order, of each part of the batch
        once: the same bits on every rank, and exact for integers below 2**53. Where any rank, a
        copy too, has no finite value, the sum is none; where any has NaN, so is the maximum.
        """
        if self.host.world_size == 1:
            return [float(value) for value in sums], [float(value) for value in maxima], [own]
        rows = self.host.gather_numbers([*sums, *maxima, own])
        rows, each = rows[:, :-1], rows[:, -1]
        count = len(sums)
        with np.errstate(invalid="ignore"):  # the sum of both infinities
            added, largest = rows[self._first, :count].sum(axis=0), rows[:, count:].max(axis=0)
        are_finite = np.isfinite(rows[:, :count]).all(axis=0)
        added[np.isfinite(added) & ~are_finite] = math.nan
        return added.tolist(), largest.tolist(), each.tolist()

    def sum(self, *values: float) -> list[float]:
        """Sum each value over the data axes; see ``exchange``. Collective."""
        return self.exchange(sums=values)[0]

    def data_mesh(self, device_type: str) -> DeviceMesh:
        """Return this rank's mesh of the data axes: (shard,) or (replicate, shard). Collective."""
        names = [axis.name for axis in _meshed(self.layout) if axis in self.layout.data_axes]
        mesh = self._mesh(device_type)
        return mesh if len(names) == mesh.ndim else mesh[tuple(names)]

    @cached_property
    def data_group(self) -> dist.ProcessGroup | None:
        """The device's group over the data axes; ``None``: the world. Collective at first."""
        if self.layout.dp_size == self.layout.world_size:
            return None
        group: dist.ProcessGroup
        group, _ = dist.new_subgroups_by_enumeration(data_groups(self.layout))
        return group

    def _mesh(self, device_type: str) -> DeviceMesh:
        axes = _meshed(self.layout)
        return init_device_mesh(
            device_type,
            tuple(axis.size for axis in axes),
            mesh_dim_names=tuple(axis.name for axis in axes),
        )


def place_of(layout: Layout, rank: int) -> dict[str, int]:
    """Return the rank's coordinate on each axis, by name; the last axis counts fastest."""
    place = {}
    for axis in reversed(layout.axes):
        rank, place[axis.name] = divmod(rank, axis.size)
    return place


def dp_rank_of(layout: Layout, rank: int) -> int:
    """Return which part of the batch the rank reads."""
    place, number = place_of(layout, rank), 0
    for axis in layout.data_axes:
        number = number * axis.size + place[axis.name]
    return number


def is_copy(layout: Layout, rank: int) -> bool:
    """Return whether an earlier rank reads the same part of the batch."""
    place = place_of(layout, rank)
    return any(place[axis.name] for axis in (*layout.outer, *layout.inner))


def data_groups(layout: Layout) -> list[list[int]]:
    """Return the ranks that differ along the data axes only, group by group."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for rank in range(layout.world_size):
        place = place_of(layout, rank)
        others = tuple(place[axis.name] for axis in (*layout.outer, *layout.inner))
        groups.setdefault(others, []).append(rank)
    return list(groups.values())


def _meshed(layout: Layout) -> tuple[Axis, ...]:
    """Return the axes of the mesh; one of replicas only where there are several."""
    replicate, _ = layout.data_axes
    return tuple(axis for axis in layout.axes if axis != replicate or axis.size > 1)


def _degrees(layout: Layout) -> list[tuple[str, int]]:
    data = {axis: f"data_parallel_{axis.name}" for axis in layout.data_axes}
    return [(data.get(axis, axis.name), axis.size) for axis in layout.axes]
