"""This rank's place on the axes of a layout, the groups of ranks along them, and sums over data.

The rows of a batch are cut over the data axes; ranks that differ only along another axis read the
same rows. So what is counted of rows is summed over the data axes alone, or each of those would
count again. What is measured at positions is summed over the ranks that took them, which are more
where sequences are cut. What must not differ between any two ranks is of the world.
"""

import math
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from distrain.config.layout import AXIS_SETTINGS, Layout
from distrain.errors import RecipeError
from distrain.parallel.collectives import HostGroup

Counted = Literal["rows", "positions"]


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
        """Whether an earlier rank reads the same rows of the batch."""
        every = range(layout.world_size)
        self._counted: dict[Counted, list[int]] = {
            "rows": [rank for rank in every if not is_copy(layout, rank)],
            "positions": [rank for rank in every if measures(layout, rank)],
        }
        self._meshes: dict[str, DeviceMesh] = {}
        self._groups: dict[frozenset[str], dist.ProcessGroup] = {}

    @property
    def is_first(self) -> bool:
        """Whether this is the one rank that writes what all ranks hold."""
        return self.dp_rank == 0 and not self.is_copy

    @property
    def measures(self) -> bool:
        """Whether what this rank measures counts."""
        return measures(self.layout, self.host.rank)

    @property
    def counts_rows(self) -> bool:
        """Whether no earlier rank measures other positions of the same rows."""
        columns = [axis.name for axis in self.layout.axes if axis.role == "columns"]
        return not any(self.place[name] for name in columns)

    @property
    def holds_same_state(self) -> bool:
        """Whether an earlier rank that reads the same rows holds the same state, and writes it."""
        return any(self.place[axis.name] for axis in self.layout.axes if axis.role == "copies")

    @property
    def averaged_over(self) -> int:
        """Ranks over which gradients are averaged, each having its own positions of the batch."""
        columns = [axis.size for axis in self.layout.axes if axis.role == "columns"]
        return self.dp_size * math.prod(columns)

    @property
    def num_shards(self) -> int:
        """Ranks over which FSDP2 cuts a parameter that no other axis cuts; see ``shard_mesh``."""
        return math.prod(
            axis.size
            for axis in self.layout.axes
            if axis.role in ("rows", "columns") and axis.name != "replicate"
        )

    def exchange(
        self,
        *,
        sums: Sequence[float] = (),
        maxima: Sequence[float] = (),
        of: Counted = "rows",
    ) -> tuple[list[float], list[float]]:
        """Take sums, and maxima over all ranks; see ``exchange_with``."""
        added, largest, _ = self.exchange_with(sums=sums, maxima=maxima, of=of)
        return added, largest

    def exchange_with(
        self,
        own: float = 0.0,
        *,
        sums: Sequence[float] = (),
        maxima: Sequence[float] = (),
        of: Counted = "rows",
    ) -> tuple[list[float], list[float], list[float]]:
        """Take sums, and maxima over all ranks, and collect one number of each rank.

        All in one host collective. Sums are in float64 and in rank order: the same bits on every
        rank, and exact for integers below 2**53. Where any rank, a copy too, has no finite value,
        the sum is none; where any has NaN, so is the maximum.

        Args:
            own: The number that is collected.
            sums: Of what this rank read (``rows``) or measured (``positions``).
            maxima: Of this rank.
            of: What is summed: what each part of the rows of the batch has, once, or what was
                measured at positions, each of which counts on one rank.
        """
        if self.host.world_size == 1:
            return [float(value) for value in sums], [float(value) for value in maxima], [own]
        rows = self.host.gather_numbers([*sums, *maxima, own])
        rows, each = rows[:, :-1], rows[:, -1]
        count = len(sums)
        with np.errstate(invalid="ignore"):  # the sum of both infinities
            added = rows[self._counted[of], :count].sum(axis=0)
            largest = rows[:, count:].max(axis=0)
        are_finite = np.isfinite(rows[:, :count]).all(axis=0)
        added[np.isfinite(added) & ~are_finite] = math.nan
        return added.tolist(), largest.tolist(), each.tolist()

    def sum(self, *values: float, of: Counted = "rows") -> list[float]:
        """Sum each value; see ``exchange_with``. Collective."""
        return self.exchange(sums=values, of=of)[0]

    def mesh(self, device_type: str) -> DeviceMesh:
        """Return the mesh of all axes that have several ranks, and of shard. Collective at first.

        What is cut along an axis is laid over ``mesh(...)["tensor"]``: FSDP2 takes such tensors
        where its own mesh has the same root.
        """
        if device_type not in self._meshes:
            axes = [axis for axis in self.layout.axes if axis.size > 1 or axis.name == "shard"]
            self._meshes[device_type] = init_device_mesh(
                device_type,
                tuple(axis.size for axis in axes),
                mesh_dim_names=tuple(axis.name for axis in axes),
            )
        return self._meshes[device_type]

    def shard_mesh(self, device_type: str, *, without: Sequence[str] = ()) -> DeviceMesh:
        """Return the mesh over which FSDP2 cuts parameters: (shard,) or (replicate, shard).

        Its shard axis goes over all ranks of a replica that read other rows or positions, as they
        all add to the gradients of the same parameter. Collective at first.

        Args:
            device_type: Of the mesh.
            without: Axes over which the parameter is cut already.
        """
        mesh = self.mesh(device_type)
        names = mesh.mesh_dim_names
        assert names is not None, "made with names"
        roles = {axis.name: axis.role for axis in self.layout.axes}
        joined = tuple(
            name
            for name in names
            if roles[name] in ("rows", "columns") and name not in ("replicate", *without)
        )
        shard = mesh[joined]
        if len(joined) > 1:
            shard = shard._flatten("shard_" + "_".join(joined[1:]))
        elif len(joined) == mesh.ndim:
            return mesh
        if "replicate" not in names:
            return shard
        if joined == ("shard",):
            return mesh["replicate", "shard"]
        return DeviceMesh._concatenate([mesh["replicate"], shard])

    def group(self, *axes: str) -> dist.ProcessGroup | None:
        """Return the device's group of the ranks that differ along these axes only.

        Collective at first. ``None``: the world.
        """
        wanted = frozenset(axes) & {axis.name for axis in self.layout.axes if axis.size > 1}
        sizes = [axis.size for axis in self.layout.axes if axis.name in wanted]
        if math.prod(sizes) == self.layout.world_size:
            return None
        if wanted not in self._groups:
            group: dist.ProcessGroup
            group, _ = dist.new_subgroups_by_enumeration(groups_along(self.layout, wanted))
            self._groups[wanted] = group
        return self._groups[wanted]

    @cached_property
    def data_group(self) -> dist.ProcessGroup | None:
        """The device's group over the data axes; ``None``: the world. Collective at first."""
        return self.group(*(axis.name for axis in self.layout.data_axes))

    @property
    def positions_group(self) -> dist.ProcessGroup | None:
        """The device's group of all that measure positions of one batch; ``None``: the world."""
        wanted = (axis.name for axis in self.layout.axes if axis.role in ("rows", "columns"))
        return self.group(*wanted)

    @cached_property
    def replica_group(self) -> dist.ProcessGroup | None:
        """The group of the ranks that hold one whole state; ``None``: the world. Collective."""
        held = [axis for axis in self.layout.axes if axis.role != "copies"]
        return self.group(*(axis.name for axis in held if axis.name != "replicate"))


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
    """Return whether an earlier rank reads the same rows of the batch."""
    place = place_of(layout, rank)
    return any(place[axis.name] for axis in layout.axes if axis.role != "rows")


def measures(layout: Layout, rank: int) -> bool:
    """Return whether what a rank measures counts: of copies on the first, of stages on the last."""
    place = place_of(layout, rank)
    for axis in layout.axes:
        counts_at = axis.size - 1 if axis.role == "stages" else 0
        if axis.role not in ("rows", "columns") and place[axis.name] != counts_at:
            return False
    return True


def groups_along(layout: Layout, names: Collection[str]) -> list[list[int]]:
    """Return the ranks that differ along these axes only, group by group."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for rank in range(layout.world_size):
        others = tuple(place for name, place in place_of(layout, rank).items() if name not in names)
        groups.setdefault(others, []).append(rank)
    return list(groups.values())


def _degrees(layout: Layout) -> list[tuple[str, int]]:
    return [(AXIS_SETTINGS.get(axis.name, axis.name), axis.size) for axis in layout.axes]
