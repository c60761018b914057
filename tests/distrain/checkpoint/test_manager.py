import logging
import resource
from pathlib import Path

import pytest
import torch

from distrain.checkpoint.choosing import newest_good
from distrain.errors import CheckpointError, PreflightError
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import whole
from tests.distrain.checkpoint.states import (
    Recorder,
    assert_same_bits,
    cut,
    full_tensors,
    manager,
    names,
    zeroed,
)
from tests.ranks import run_ranks

LIMIT_BYTES = 64 * 1024


def state_of(seed, rank=0, world_size=1):
    return cut(full_tensors(seed), "ranges", rank, world_size)


def empty(rank=0, world_size=1):
    return cut(zeroed(full_tensors(0)), "ranges", rank, world_size)


def overwrite(state):
    for entry in state.values():
        for box in entry.boxes:
            box.tensor.fill_(7)


def test_a_checkpoint_is_due_every_save_steps(tmp_path):
    checkpoints = manager(tmp_path, save_steps=5)
    assert [step for step in range(1, 16) if checkpoints.is_due(step)] == [5, 10, 15]


def test_nothing_to_restore_is_no_error(tmp_path):
    assert manager(tmp_path).restore(empty()) is None


def test_the_newest_is_restored_with_its_extra(tmp_path):
    recorder = Recorder()
    checkpoints = manager(tmp_path, recorder)
    for step in (100, 200):
        checkpoints.save(step, state_of(step), {"progress": {"step": step}})
    checkpoints.wait()
    state = empty()
    assert manager(tmp_path).restore(state) == (200, {"progress": {"step": 200}})
    assert_same_bits(state, state_of(200))
    assert [(kind, fields["step"]) for kind, fields in recorder.events] == [
        ("checkpoint", 100),
        ("checkpoint", 200),
    ]


@pytest.mark.parametrize("async_save", [True, False])
def test_state_changed_after_save_does_not_reach_the_checkpoint(tmp_path, async_save):
    checkpoints = manager(tmp_path, async_save=async_save)
    for step in range(1, 6):  # warm buffers too
        state = state_of(step)
        checkpoints.save(step, state, {})
        overwrite(state)
        checkpoints.wait()
        loaded = empty()
        assert manager(tmp_path).restore(loaded) == (step, {})
        assert_same_bits(loaded, state_of(step))


def test_saves_without_a_pause_do_not_overtake_each_other(tmp_path):
    checkpoints = manager(tmp_path, keep_last=20)
    state = state_of(0)
    for step in range(1, 9):
        for entry in state.values():
            for box in entry.boxes:
                box.tensor.fill_(step)
        checkpoints.save(step, state, {})
    checkpoints.wait()
    for name in names(tmp_path / "checkpoints"):
        alone = tmp_path / name / "checkpoints"
        alone.mkdir(parents=True)
        (tmp_path / "checkpoints" / name).rename(alone / name)
        loaded = empty()
        restored = manager(tmp_path / name).restore(loaded)
        assert restored is not None
        values = {float(v) for e in loaded.values() for b in e.boxes for v in b.tensor.flatten()}
        assert values == {float(restored[0])}


def test_the_last_ones_stay_on_disk(tmp_path):
    checkpoints = manager(tmp_path, keep_last=2)
    for step in range(1, 6):
        checkpoints.save(step, state_of(step), {})
    checkpoints.wait()
    assert names(tmp_path / "checkpoints") == ["step_000004", "step_000005"]


def test_a_moment_that_is_on_disk_is_not_written_again(tmp_path):
    recorder = Recorder()
    checkpoints = manager(tmp_path, recorder)
    checkpoints.save(5, state_of(5), {"a": 1})
    checkpoints.save_and_wait(5, state_of(5), {"a": 1})
    assert recorder.kinds == ["checkpoint"]
    checkpoints = manager(tmp_path, recorder)
    checkpoints.restore(empty())
    checkpoints.save_and_wait(5, state_of(5), {"a": 1})
    assert recorder.kinds == ["checkpoint"]


def test_a_step_that_exists_is_saved_again_under_a_new_name(tmp_path):
    manager(tmp_path).save_and_wait(5, state_of(1), {})
    before = (tmp_path / "checkpoints" / "step_000005" / "commit.json").stat()
    again = manager(tmp_path, keep_last=1)
    again.save_and_wait(5, state_of(2), {"again": True})
    assert names(tmp_path / "checkpoints") == ["step_000005.1"]
    loaded = empty()
    assert manager(tmp_path).restore(loaded) == (5, {"again": True})
    assert_same_bits(loaded, state_of(2))
    after = (tmp_path / "checkpoints" / "step_000005.1" / "commit.json").stat()
    assert before.st_ino != after.st_ino


def test_a_checkpoint_of_another_model_is_an_error_and_stays(tmp_path):
    manager(tmp_path).save_and_wait(5, state_of(1), {})
    recorder = Recorder()
    with pytest.raises(CheckpointError, match="lacks model/other") as caught:
        manager(tmp_path, recorder).restore({"model/other": whole(torch.zeros(2), writes=True)})
    assert "Use the recipe that made this checkpoint" in caught.value.remedy
    assert recorder.events == []
    assert names(tmp_path / "checkpoints") == ["step_000005"]


def test_leftovers_of_a_crash_are_removed_at_restore(tmp_path):
    manager(tmp_path).save_and_wait(5, state_of(1), {})
    (tmp_path / "checkpoints" / ".saving-step_000006-12345678").mkdir()
    assert manager(tmp_path).restore(empty()) == (5, {})
    assert names(tmp_path / "checkpoints") == ["step_000005"]


def test_a_failed_background_save_is_an_event_and_training_goes_on(tmp_path, caplog):
    recorder = Recorder()
    checkpoints = manager(tmp_path, recorder)
    (tmp_path / "checkpoints").touch()  # a file where the folder belongs; root may write anywhere
    checkpoints.save(1, state_of(1), {})
    with caplog.at_level(logging.WARNING):
        while not recorder.events:
            checkpoints.poll(checkpoints.is_saving)
    ((kind, fields),) = recorder.events
    assert kind == "checkpoint_failed"
    assert fields["step"] == 1
    assert "File exists" in fields["reason"]
    assert "checkpoint of step 1 failed: File exists" in caplog.text
    (tmp_path / "checkpoints").unlink()
    checkpoints.save(2, state_of(2), {})
    checkpoints.wait()
    assert recorder.kinds == ["checkpoint_failed", "checkpoint"]


def test_extra_that_is_no_json_is_a_failure_that_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="not JSON serializable while saving step 1"):
        manager(tmp_path).save_and_wait(1, state_of(1), {"path": tmp_path})
    assert names(tmp_path / "checkpoints") == []


def limit_file_size(limit: int) -> None:
    """Let writes beyond ``limit`` bytes fail, as on a full disk or over a quota."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))


def save_while_one_rank_finds_no_room(stage: Path) -> None:
    host = HostGroup()
    recorder = Recorder()
    checkpoints = manager(stage, recorder)
    state = cut({"model/w": torch.randn(50_000)}, "rows", host.rank, 2)
    checkpoints.save(1, state, {})
    checkpoints.wait()
    if host.rank == 1:
        limit_file_size(LIMIT_BYTES)
    checkpoints.save(2, state, {})
    checkpoints.wait()
    with pytest.raises(PreflightError) as caught:
        checkpoints.save_and_wait(2, state, {})
    limit_file_size(resource.RLIM_INFINITY)
    message = str(caught.value)
    assert "File too large while saving step 2, 2 failed saves in a row" in message
    assert "expected room for one checkpoint" in message
    assert "Free space, then run the same command again" in message
    assert "it goes on from step 1" in message
    if host.rank == 0:
        assert names(stage / "checkpoints") == ["step_000001"]
    host.barrier()
    checkpoints.save_and_wait(3, state, {})
    failures = ["checkpoint", "checkpoint_failed", "checkpoint_failed", "checkpoint"]
    assert recorder.kinds == (failures if host.rank == 0 else [])
    assert manager(stage).restore(state) == (3, {})


def test_a_full_disk_on_one_rank_fails_the_save_on_all_and_nothing_else(tmp_path):
    run_ranks(tmp_path, 2, save_while_one_rank_finds_no_room, tmp_path)
    assert names(tmp_path / "checkpoints") == ["step_000001", "step_000003"]


def save_between_collectives(stage: Path) -> None:
    """The loop talks on its group while the background talks on another."""
    host = HostGroup()
    checkpoints = manager(stage, host=host)
    for step in range(1, 5):
        state = state_of(step, host.rank, host.world_size)
        checkpoints.save(step, state, {"step": step})
        for number in range(50):
            overwrite(state)
            assert host.max(float(number * host.rank)) == [float(number * (host.world_size - 1))]
        checkpoints.poll(host.any(checkpoints.is_saving))
    checkpoints.wait()


def restore_and_compare(stage: Path) -> None:
    host = HostGroup()
    loaded = empty(host.rank, host.world_size)
    assert manager(stage).restore(loaded) == (4, {"step": 4})
    assert_same_bits(loaded, state_of(4, host.rank, host.world_size))


def test_three_ranks_save_in_the_background_and_two_restore(tmp_path):
    run_ranks(tmp_path, 3, save_between_collectives, tmp_path)
    run_ranks(tmp_path, 2, restore_and_compare, tmp_path)
    assert newest_good(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step_000004"
