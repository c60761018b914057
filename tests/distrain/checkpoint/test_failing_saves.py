"""A save that fails on one rank fails on all; one that hangs ends all. Nobody waits elsewhere."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distrain.checkpoint import removing, writing
from distrain.checkpoint.choosing import newest_good
from distrain.checkpoint.entries import BoxSavePlanner, SyncedWriter
from distrain.checkpoint.staging import Staging
from distrain.errors import CheckpointError, ExitCode
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import State, whole
from tests.distrain.checkpoint.states import (
    Recorder,
    assert_same_bits,
    cut,
    full_tensors,
    manager,
    names,
    zeroed,
)
from tests.ranks import exit_codes, run_ranks

STAGES: dict[str, tuple[Any, str, tuple[int, ...]]] = {
    # Of a save, in order -> (owner, what it calls there, on which ranks).
    "staging": (Staging, "copy", (0, 1)),
    "begin": (writing, "_begin", (0,)),
    "plan": (BoxSavePlanner, "create_local_plan", (0, 1)),
    "join": (BoxSavePlanner, "create_global_plan", (0, 1)),
    "write": (SyncedWriter, "write_data", (0, 1)),
    "index": (SyncedWriter, "finish", (0,)),
    "digest": (writing, "digest_file", (0, 1)),
    "commit": (writing, "write_commit", (0,)),
    "retire": (removing, "retire", (0,)),
}


def state_of(step: int, host: HostGroup) -> State:
    return cut(full_tensors(step), "ranges", host.rank, host.world_size)


def fail(*args: object, **kwargs: object) -> None:
    raise ValueError("planted")


def sleep(*args: object, **kwargs: object) -> None:
    time.sleep(3600)


class Instead:
    """Puts something in the place of a stage of this process."""

    def __init__(self, stage: str, act: Callable[..., None]) -> None:
        self._owner, self._name, _ = STAGES[stage]
        self._real = getattr(self._owner, self._name)
        setattr(self._owner, self._name, act)

    def undo(self) -> None:
        setattr(self._owner, self._name, self._real)


def fail_at_each_stage(folder: Path, async_save: bool) -> None:
    host = HostGroup()
    recorder = Recorder()
    checkpoints = manager(folder, recorder, async_save=async_save, keep_last=1)
    checkpoints.save_and_wait(1, state_of(1, host), {})
    step = 1
    for stage, (_, _, victims) in STAGES.items():
        if stage == "staging" and not async_save:
            continue
        for victim in victims:
            recorder.events.clear()
            step += 1
            planted = Instead(stage, fail) if host.rank == victim else None
            checkpoints.save(step, state_of(step, host), {})
            while checkpoints._in_flight is not None:  # as the loop does
                checkpoints.poll(host.any(checkpoints.is_saving))
            if planted is not None:
                planted.undo()
            checkpoints.save_and_wait(step, state_of(step, host), {"good": True})
            if host.rank == 0:
                assert recorder.kinds == ["checkpoint_failed", "checkpoint"], stage
                assert recorder.events[0][1] == {"step": step, "reason": "ValueError: planted"}
                assert names(folder / "checkpoints")[-1].startswith(f"step_{step:06d}"), stage
            host.barrier()
    restored = cut(zeroed(full_tensors(0)), "ranges", host.rank, host.world_size)
    assert manager(folder).restore(restored) == (step, {"good": True})
    assert_same_bits(restored, state_of(step, host))


@pytest.mark.parametrize("async_save", [True, False])
def test_an_exception_on_one_rank_at_any_stage_is_a_failed_save_on_both(tmp_path, async_save):
    run_ranks(tmp_path, 2, fail_at_each_stage, tmp_path, async_save, timeout_s=90)


def fail_too_often(folder: Path) -> None:
    host = HostGroup()
    checkpoints = manager(folder, max_failed_saves=3)
    checkpoints.save_and_wait(1, state_of(1, host), {})
    if host.rank == 1:
        Instead("write", fail)
    step = 1

    def train() -> None:
        nonlocal step
        for step in range(2, 100):
            if step % 10 == 0:
                checkpoints.save(step, state_of(step, host), {})
            time.sleep(0.02 * host.rank)  # the ranks see their saves end at different times
            checkpoints.poll(host.any(checkpoints.is_saving))

    with pytest.raises(CheckpointError) as caught:
        train()
    message = str(caught.value)
    assert host.gather((step, message)) == [(step, message)] * 2
    assert 30 <= step <= 40
    assert "3 failed saves in a row (checkpoint.max_failed_saves=3)" in message
    assert "run the same command again: it goes on from step 1." in message
    assert caught.value.exit_code is ExitCode.TRAINING


def test_saves_that_keep_failing_end_both_ranks_after_the_same_step(tmp_path):
    run_ranks(tmp_path, 2, fail_too_often, tmp_path, timeout_s=90)


def hang(folder: Path, stage: str, victim: int, async_save: bool) -> None:
    host = HostGroup()

    def on_event(kind: str, fields: dict[str, Any]) -> None:
        with (folder / "events").open("a") as stream:
            stream.write(json.dumps([kind, fields]) + "\n")

    manager(folder).save_and_wait(1, state_of(1, host), {})
    checkpoints = manager(folder, on_event, async_save=async_save, save_deadline="1s")
    if host.rank == victim:
        Instead(stage, sleep)
    checkpoints.save(2, state_of(2, host), {})
    while True:  # the loop goes on, or waits for a rank that does not come
        checkpoints.poll(host.any(checkpoints.is_saving))
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("stage", "victim", "async_save"),
    [("staging", 1, True), ("write", 0, True), ("plan", 1, False)],
)
def test_a_save_that_hangs_on_one_rank_ends_both_at_the_deadline(
    tmp_path, stage, victim, async_save
):
    codes = exit_codes(tmp_path, 2, hang, tmp_path, stage, victim, async_save, timeout_s=90)
    assert all(codes), codes  # neither lives on, and neither says that all is well
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    reason = "not over after 1s (checkpoint.save_deadline); the attempt ends"
    assert events == [["checkpoint_failed", {"step": 2, "reason": reason}]]
    assert newest_good(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step_000001"


def save_what_is_not_the_same(folder: Path) -> None:
    host = HostGroup()
    checkpoints = manager(folder, max_failed_saves=9)

    def claimed(value: float) -> State:
        tensor = whole(torch.tensor([1.0, value]), writes=host.rank == 0)
        return state_of(1, host) | {"row/w": replace(tensor, is_claimed_equal=True)}

    for value, extra, name in ((host.rank, {}, "row/w"), (0.0, {"rank": host.rank}, "extra.json")):
        with pytest.raises(CheckpointError, match=f"{name}: not the same on rank 1 as on rank 0"):
            checkpoints.save_and_wait(1, claimed(value), extra)
    assert host.rank or not list((folder / "checkpoints").glob("*"))  # the first one tidies up
    checkpoints.save(1, claimed(host.rank), {})  # in the background, from a copy
    checkpoints.wait()
    assert host.rank or not list((folder / "checkpoints").glob("*"))  # the first one tidies up
    of_one = claimed(0.0)
    if host.rank == 1:
        of_one["row/w"] = replace(of_one["row/w"], is_claimed_equal=False)
    with pytest.raises(CheckpointError, match="row/w: not the same on rank 1 as on rank 0"):
        checkpoints.save_and_wait(1, of_one, {})
    checkpoints.save(1, claimed(0.0), {})
    checkpoints.wait()
    assert list((folder / "checkpoints").glob("*"))


def test_one_ranks_word_is_not_saved_for_all_where_the_ranks_differ(tmp_path):
    run_ranks(tmp_path / "ranks", 2, save_what_is_not_the_same, tmp_path)
