"""A step of the loop: two host collectives, and one wait for the device."""

import json
from collections import Counter
from functools import wraps

import pytest
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, record_function

from distrain.train.loop import train
from tests.distrain.train.synthetic import make_run, make_stage
from tests.ranks import run_ranks

COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "barrier", "gather",
    "gather_object", "broadcast", "broadcast_object_list", "reduce", "scatter", "all_to_all",
    "reduce_scatter_tensor", "scatter_object_list",
)  # fmt: skip


def count_host_collectives(run, counts):
    """Count what goes over the loop's own group, whoever calls it and by whatever function."""
    group = run.host.process_group

    def counted(call):
        @wraps(call)
        def counting(*args, **kwargs):
            counts["host collectives"] += group in (*args, *kwargs.values())
            return call(*args, **kwargs)

        return counting

    for name in COLLECTIVES:
        setattr(dist, name, counted(getattr(dist, name)))


def count_reads(counts):
    """Count reads of several numbers at once, which leave no mark of their own in a profile."""

    def counted(name, call):
        def counting(*args, **kwargs):
            counts[name] += 1
            return call(*args, **kwargs)

        return counting

    for name in ("tolist", "cpu"):
        setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))


INSIDE_TORCH = ("backward", "aten::_fused_adamw_")
"""What reads numbers on the host by itself: in the backward pass DDP's reducer, which parameters
were used; the optimizer's kernel for the CPU, its step. On a GPU neither waits for the device."""


def single_reads(profiled):
    """Count the reads of one number, without those inside of torch's own parts."""

    def is_inside_torch(event):
        while event is not None:
            if event.name in INSIDE_TORCH:
                return True
            event = event.cpu_parent
        return False

    reads = [event for event in profiled.events() if event.name == "aten::_local_scalar_dense"]
    return sum(not is_inside_torch(event) for event in reads)


def count_a_step(folder, strategy):
    """Train, and note what one step does from before its batch to before the next one's."""
    stage = make_stage(
        strategy, precision="fp32", max_steps=4, checkpoint={"save_steps": 2}, dropout=0.1
    )
    run = make_run(folder, stage)
    counts: Counter[str] = Counter()
    count_host_collectives(run, counts)
    count_reads(counts)
    profiler, own = profile(activities=[ProfilerActivity.CPU]), run.wishes.own
    begun: list[None] = []
    run.engine.backward = record_function("backward")(run.engine.backward)  # type: ignore[attr-defined]

    def step_begins():
        if len(begun) == 2:
            # Its end is agreed on in this step; what the thread does is not the loop's.
            save = run.checkpoints._in_flight
            assert save is not None
            assert save.thread is not None
            save.thread.join()
            counts.clear()
            profiler.start()
        if len(begun) == 3:
            profiler.stop()
            (folder / f"counts-{run.host.rank}.json").write_text(json.dumps(counts))
        begun.append(None)
        return own()

    run.wishes.own = step_begins  # type: ignore[method-assign]
    train(run)
    reads = single_reads(profiler)
    counts = Counter(json.loads((folder / f"counts-{run.host.rank}.json").read_text()))
    assert counts["host collectives"] == (2 if run.host.world_size > 1 else 0)
    assert (reads, counts["tolist"], counts["cpu"]) == (0, 1, 0)
    run.host.barrier()


@pytest.mark.parametrize(
    ("strategy", "num_ranks"),
    [
        pytest.param("single", 1, marks=pytest.mark.seams),
        pytest.param("ddp", 2, marks=pytest.mark.seams),
        ("fsdp", 2),
    ],
)
def test_a_step_asks_the_other_hosts_twice_and_waits_for_the_device_once(
    tmp_path, strategy, num_ranks
):
    (tmp_path / "run").mkdir()
    run_ranks(tmp_path / "ranks", num_ranks, count_a_step, tmp_path / "run", strategy)
    assert len(list((tmp_path / "run").glob("counts-*.json"))) == num_ranks
