"""Where a rank stands on the axes of a layout, and what is summed over which of them."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distrain.config.layout import Axis, Layout
from distrain.errors import RecipeError
from distrain.parallel.apply import build_engine
from distrain.parallel.collectives import HostGroup
from distrain.parallel.ranks import Ranks, dp_rank_of, groups_along, is_copy, place_of
from tests.distrain.parallel.tiny_model import Case, spec_of
from tests.ranks import run_ranks

MUTE = Axis("mute", 2)
INNER = Layout("fsdp", 3, 1, 2, inner=(MUTE,))
OUTER = Layout("fsdp", 3, 1, 2, outer=(MUTE,))


def of_size(ranks: int) -> HostGroup:
    """Be the first of so many ranks, of which no other is there."""

    class Sized(HostGroup):
        world_size = ranks

        def __init__(self) -> None:
            self.rank = 0

    return Sized()


def test_the_last_axis_changes_from_rank_to_rank():
    layout = Layout("fsdp", 3, 2, 3, outer=(Axis("far", 2),), inner=(Axis("near", 2),))
    assert layout.world_size == 24
    assert layout.dp_size == 6
    assert place_of(layout, 0) == {"far": 0, "replicate": 0, "shard": 0, "near": 0}
    assert place_of(layout, 1) == {"far": 0, "replicate": 0, "shard": 0, "near": 1}
    assert place_of(layout, 23) == {"far": 1, "replicate": 1, "shard": 2, "near": 1}


@pytest.mark.parametrize(
    ("layout", "parts", "copies", "groups"),
    [
        (INNER, [0, 0, 1, 1], [False, True, False, True], [[0, 2], [1, 3]]),
        (OUTER, [0, 1, 0, 1], [False, False, True, True], [[0, 1], [2, 3]]),
        (Layout("fsdp", 3, 2, 2), [0, 1, 2, 3], [False] * 4, [[0, 1, 2, 3]]),
    ],
)
def test_ranks_along_another_axis_read_the_same_part(layout, parts, copies, groups):
    assert [dp_rank_of(layout, rank) for rank in range(4)] == parts
    assert [is_copy(layout, rank) for rank in range(4)] == copies
    assert groups_along(layout, ("replicate", "shard")) == groups


def test_parameters_are_cut_over_all_that_add_to_their_gradients():
    context, tensor = Axis("context", 2, "columns"), Axis("tensor", 2, "tensors")
    stages = Axis("pipeline", 2, "stages")
    layout = Layout("fsdp", 3, 2, 3, outer=(stages,), inner=(context, tensor))
    assert Ranks(layout, of_size(layout.world_size)).num_shards == 3 * 2
    assert Ranks(Layout("ddp", 3, 4, 1), of_size(4)).num_shards == 1


def test_another_axis_is_named_where_the_processes_do_not_suffice():
    with pytest.raises(RecipeError, match=r"data_parallel_shard 2 \* mute 2 = 4 ranks"):
        Ranks(INNER, HostGroup())


def test_zero_refuses_another_axis():
    ranks = Ranks(Layout("deepspeed", 3, 1, 2, inner=(MUTE,)), of_size(4))
    with pytest.raises(RecipeError, match=r"besides those of the data \(mute\)"):
        build_engine(ranks, spec_of(Case("deepspeed")))


def exchange(folder: Path) -> None:
    host = HostGroup()
    rank = host.rank
    for layout in (INNER, OUTER):
        ranks = Ranks(layout, host)
        # Of each part once; the maximum is that of all four.
        sums, maxima = ranks.exchange(sums=[10.0**ranks.dp_rank, 2.0**52], maxima=[rank])
        assert (sums, maxima) == ([11.0, 2.0**53], [3.0])
        # What one copy alone has is not lost.
        (spoiled,) = ranks.sum(math.nan if rank == 3 else 1.0)
        assert math.isnan(spoiled)
        (endless,) = ranks.sum(math.inf if ranks.dp_rank == 0 else 1.0)
        assert endless == math.inf
        group = ranks.data_group
        total = torch.tensor(float(rank))
        dist.all_reduce(total, group=group)
        assert total.item() == sum(next(g for g in groups_along(layout, ("shard",)) if rank in g))
    assert ranks.data_group is not None
    assert Ranks(Layout("ddp", 3, 4, 1), host).data_group is None
    # In rank order, so that all ranks see the same bits: another order gives another sum here.
    (ordered,) = Ranks(Layout("ddp", 3, 4, 1), host).sum([1e16, 1.0, -1e16, 1.0][rank])
    assert ordered == 1.0
    (folder / f"seen-{rank}").touch()


def test_sums_are_of_the_data_axes_and_maxima_of_the_world(tmp_path):
    run_ranks(tmp_path / "ranks", 4, exchange, tmp_path)
    assert len(list(tmp_path.glob("seen-*"))) == 4
