"""For whom the others wait: told from their waits, and from nothing else that differs."""

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from torch import nn

from distrain.data.samples.loader import Microbatch
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.tasks.task import TaskSums
from distrain.train.stragglers import PASSED, STEPS, Straggler, Stragglers
from tests.distrain.train.synthetic import ENGINES, WrappedTask, finish, make_run, make_stage
from tests.ranks import run_ranks

OWN_NODE = ("a", "b", "c")


def judge(nodes, steps):
    """Return what is named, with the number of the step that named it."""
    stragglers = Stragglers(nodes)
    named = [(number, stragglers.note(shares)) for number, shares in enumerate(steps, start=1)]
    return [(number, late) for number, late in named if late is not None]


def test_the_rank_that_waits_least_is_named_once_after_twenty_steps():
    steps = [(0.6, 0.1, 0.5)] * 100
    assert judge(OWN_NODE, steps) == [(PASSED + STEPS, Straggler(1, "b", 0.1, 0.55))]


def test_who_has_caught_up_is_named_again_when_it_falls_back():
    slow, even = [(0.6, 0.1, 0.5)] * 30, [(0.3, 0.3, 0.3)] * 30
    assert [late.rank for _, late in judge(OWN_NODE, slow + even + slow)] == [1, 1]


@pytest.mark.parametrize(
    "steps",
    [
        [(0.3, 0.25, 0.3)] * 60,  # as rank 0, which writes records
        [(0.5, 0.1, 0.5), (0.1, 0.5, 0.5), (0.5, 0.5, 0.1)] * 20,  # in turn
        [(math.nan, 0.1, 0.5)] * 60,
        [(0.6, 0.1, 0.5)] * (PASSED + STEPS - 1),
    ],
)
def test_nobody_is_named_where_nobody_is_late(steps):
    assert judge(OWN_NODE, steps) == []


def test_noise_names_nobody():
    dice = np.random.default_rng(3)
    steps = dice.beta(1, 3, size=(10_000, 2)).tolist()
    assert judge(("a", "b"), steps) == []
    assert judge(("a", "a"), steps) == []


def test_a_node_is_as_late_as_the_last_of_its_ranks_whichever_that_is():
    steps = [(0.5, 0.6, 0.1, 0.3), (0.5, 0.6, 0.3, 0.05)] * 20
    ((_, late),) = judge(("a", "a", "b", "b"), steps)
    assert (late.rank, late.node) == (3, "b")


def test_a_rank_alone_waits_for_nobody():
    assert judge(("a",), [(0.0,)] * 60) == []


@dataclass(frozen=True)
class SlowTask(WrappedTask):
    """Takes longer over every microbatch."""

    def measure(self, module: nn.Module, microbatch: Microbatch) -> TaskSums:
        started = time.perf_counter()
        measured = self.honest.measure(module, microbatch)
        # In proportion: how long a step takes on a busy machine is not known beforehand.
        time.sleep(0.01 + 3 * (time.perf_counter() - started))
        return measured


def train_with_slow_rank(folder, engine, slow):
    steps = 2 * (STEPS + PASSED)
    stage = make_stage(precision="fp32", max_steps=steps, parallelism=ENGINES[engine])
    run = make_run(folder, stage)
    if run.host.rank == slow:
        run = replace(run, task=SlowTask(run.task))
    finish(run)


def named(folder):
    events = read_records(RunFolder(folder).events)
    return {event["rank"] for event in events if event["event"] == "straggler"}


@pytest.mark.seams  # ten seconds an engine; what judges their waits is judged above
@pytest.mark.parametrize("engine", ["ddp", "fsdp", "zero2", "zero3"])
def test_a_rank_that_is_slow_in_its_forward_pass_is_named_and_no_other(tmp_path, engine):
    """Its peers wait within the engine's own collectives, not in those of the host."""
    run_ranks(tmp_path / "slow", 2, train_with_slow_rank, tmp_path / "slow", engine, 1)
    assert named(tmp_path / "slow") == {1}
    run_ranks(tmp_path / "even", 2, train_with_slow_rank, tmp_path / "even", engine, None)
    assert named(tmp_path / "even") == set()
