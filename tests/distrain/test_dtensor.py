"""What a rank holds of a tensor that was cut along several axes, checked by laying it together."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from distrain.config.layout import Axis, Layout
from distrain.dtensor import own_parts
from distrain.models.init import fill
from distrain.parallel.collectives import HostGroup
from distrain.parallel.ranks import Ranks
from tests.ranks import run_ranks

SHAPES = {"rows": (10, 6), "columns": (6, 10), "packed": (9, 4), "kept": (7,)}
CUT_ALONG = {"rows": 0, "columns": 1, "packed": 0, "kept": None}
PACKED = {"packed": (5, 4)}
LAYOUT = Layout("fsdp", 3, 1, 2, inner=(Axis("tensor", 2, "tensors"),))


def cut_rows(full, axis, packed, place):
    """Cut a tensor for one of two ranks, matrix by matrix."""
    matrices = full.split(packed or full.shape[axis], dim=axis)
    return torch.cat([matrix.chunk(2, dim=axis)[place] for matrix in matrices], dim=axis)


def place_of(offsets, part):
    return tuple(slice(o, o + n) for o, n in zip(offsets, part.shape, strict=True))


def hold(folder):
    host = HostGroup()
    ranks = Ranks(LAYOUT, host)
    mesh = ranks.mesh("cpu")["tensor"]
    module, whole = nn.Module(), {}
    for name, shape in SHAPES.items():
        full = whole[name] = torch.arange(float(torch.Size(shape).numel())).view(shape)
        axis, local = CUT_ALONG[name], full
        placement: Placement = Replicate() if axis is None else Shard(axis)
        if axis is not None:
            local = cut_rows(full, axis, PACKED.get(name), ranks.place["tensor"])
        laid = DTensor.from_local(
            local.clone(),
            mesh,
            [placement],
            run_check=False,
            shape=full.shape,
            stride=full.stride(),
        )
        module.register_parameter(name, nn.Parameter(laid))
    fully_shard(module, mesh=ranks.shard_mesh("cpu"))
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            parts = own_parts(parameter, PACKED.get(name, ()))
        counts = torch.zeros(SHAPES[name])
        for offsets, view in parts:
            place = place_of(offsets, view)
            assert view.equal(whole[name][place]), name
            counts[place] += 1
        dist.all_reduce(counts)
        # Every element is held by one rank, of what is not cut along tensors by two.
        assert counts.eq(2 if CUT_ALONG[name] is None else 1).all(), name
        fill(parameter, -whole[name], PACKED.get(name, ()))
        assert all(
            view.equal(-whole[name][place_of(at, view)])
            for at, view in own_parts(parameter.detach(), PACKED.get(name, ()))
        ), name
        fill(parameter, whole[name], PACKED.get(name, ()))
        if name == "packed":
            unaware = own_parts(parameter.detach())
            right = all(
                view.equal(whole[name][offsets[0] : offsets[0] + len(view)])
                for offsets, view in unaware
            )
            assert host.gather(right) != [True] * 4  # it does matter that two matrices are in it
    (folder / f"seen-{host.rank}").touch()


def test_parts_lie_where_they_are_said_to(tmp_path):
    run_ranks(tmp_path / "ranks", 4, hold, tmp_path)
    assert len(list(tmp_path.glob("seen-*"))) == 4


def test_a_plain_tensor_is_one_part():
    tensor = torch.ones(2, 3)
    ((offsets, part),) = own_parts(tensor)
    assert offsets == (0, 0)
    assert part.data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize(
    ("axes", "averaged", "counted"),
    [
        ((Axis("tensor", 2, "tensors"),), 2, [0, 2]),
        ((Axis("context", 2, "columns"),), 4, [0, 1, 2, 3]),
        ((Axis("expert", 2, "rows"),), 4, [0, 1, 2, 3]),
    ],
)
def test_who_measures_and_over_whom_gradients_are_averaged(axes, averaged, counted):
    class Four(HostGroup):
        world_size = 4

        def __init__(self, rank) -> None:
            self.rank = rank

    ranks = [Ranks(Layout("fsdp", 3, 1, 2, inner=axes), Four(rank)) for rank in range(4)]
    assert [each.averaged_over for each in ranks] == [averaged] * 4
    assert [number for number, each in enumerate(ranks) if each.measures] == counted
