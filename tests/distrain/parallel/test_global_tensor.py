import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)

from distrain.parallel.global_tensor import (
    GlobalTensor,
    from_dtensor,
    from_flat_range,
    gather_full,
    range_boxes,
    whole,
)
from tests.ranks import run_ranks

shapes = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


@st.composite
def ranges(draw: st.DrawFn):
    shape = draw(shapes)
    numel = math.prod(shape)
    start = draw(st.integers(0, numel))
    return shape, start, draw(st.integers(start, numel))


@given(ranges())
def test_boxes_cover_the_range_once_and_nothing_else(case):
    shape, start, stop = case
    index = torch.arange(math.prod(shape)).view(shape)
    covered = []
    for offsets, sizes, first in range_boxes(shape, start, stop):
        box = index[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))].flatten()
        assert box[0] == first
        covered += box.tolist()

    assert covered == list(range(start, stop))
    assert len(range_boxes(shape, start, stop)) <= 2 * len(shape) - 1


@given(ranges())
def test_boxes_of_a_flat_range_are_views_of_it(case):
    shape, start, stop = case
    values = torch.zeros(stop - start)
    entry = from_flat_range(shape, start, values)
    for number, box in enumerate(entry.boxes, start=1):
        box.tensor.fill_(number)

    assert entry.shape == shape
    assert bool((values > 0).all())
    assert sum(box.tensor.numel() for box in entry.boxes) == stop - start


@given(shapes, st.integers(1, 7))
def test_ranges_of_all_ranks_put_together_are_the_tensor(shape, ranks):
    full = torch.randn(shape, dtype=torch.float64)
    part = -(-full.numel() // ranks)
    found = torch.full(shape, torch.nan, dtype=torch.float64)
    for start in range(0, full.numel(), part):
        values = full.flatten()[start : start + part]
        for box in from_flat_range(shape, start, values).boxes:
            place = tuple(slice(o, o + n) for o, n in zip(box.offsets, box.sizes, strict=True))
            assert bool(found[place].isnan().all())
            found[place] = box.tensor

    assert torch.equal(found, full)


def test_a_scalar_is_shown_as_one_element():
    scalar = torch.tensor(3.0)
    entry = whole(scalar, writes=True)
    entry.boxes[0].tensor.fill_(4.0)

    assert entry.shape == (1,)
    assert scalar == 4.0
    assert from_flat_range((), 0, torch.ones(1)).shape == (1,)


def test_like_keeps_the_place_and_changes_the_memory():
    entry = from_flat_range((2, 3), 1, torch.arange(4.0))
    copies = [box.tensor.clone() for box in entry.boxes]
    same = entry.like(copies)
    copies[0].zero_()

    assert [box.offsets for box in same.boxes] == [(0, 1), (1, 0)]
    assert same.boxes[0].tensor.tolist() == [[0, 0]]
    assert entry.boxes[0].tensor.tolist() == [[0, 1]]


def gather_odd_bits() -> None:
    rank = dist.get_rank()
    full = torch.tensor([-0.0, float("nan"), float("inf"), 1e-45, 2.0])
    part = full[: 3 - rank] if rank == 0 else full[3:]
    ids = torch.tensor([1, -1, 2**40])
    state = {
        "cut": from_flat_range((5,), 3 * rank, part.clone()),
        "replica": whole(ids + rank, writes=rank == 0),
        "flags": whole(torch.tensor([True, False]), writes=rank == 1),
        "half": GlobalTensor((2,), torch.bfloat16, ()),
    }
    gathered = gather_full(state)

    assert gathered["cut"].view(torch.int32).equal(full.view(torch.int32))
    assert gathered["replica"].equal(ids)
    assert gathered["flags"].tolist() == [True, False]
    assert gathered["half"].dtype == torch.bfloat16


def test_gathering_moves_bits_unchanged_and_reads_one_replica(tmp_path: Path):
    run_ranks(tmp_path, 2, gather_odd_bits)


def show_dtensors() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    replica, shard = mesh.get_coordinate() or ()
    full = torch.arange(15.0).view(5, 3)

    def shown(*placements: Placement, tensor: Tensor = full) -> GlobalTensor:
        sharded = distribute_tensor(tensor, mesh, placements, src_data_rank=None)
        return from_dtensor(sharded, is_copy=False)

    rows, columns = shown(Replicate(), Shard(0)), shown(Shard(1), Replicate())
    assert (rows.writes, columns.writes) == (replica == 0, shard == 0)
    assert [box.offsets for box in rows.boxes] == [(3 * shard, 0)]
    assert [box.offsets for box in columns.boxes] == [(0, 2 * replica)]
    assert not shown(Replicate(), Shard(0), tensor=full[:1]).boxes or shard == 0
    for entry in (rows, columns, shown(Replicate(), Replicate())):
        assert gather_full({"w": entry})["w"].equal(full)
    scalar = shown(Replicate(), Replicate(), tensor=torch.tensor(3.0))
    assert (scalar.shape, scalar.writes) == ((1,), replica == shard == 0)
    with pytest.raises(ValueError, match="sum over ranks still to come"):
        from_dtensor(DTensor.from_local(full, mesh, (Replicate(), Partial())), is_copy=False)


def test_a_dtensor_is_its_boxes_and_its_first_replica_writes(tmp_path: Path):
    run_ranks(tmp_path, 4, show_dtensors)
