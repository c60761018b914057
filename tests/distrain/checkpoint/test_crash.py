"""A save that dies after any one of its calls leaves the last committed checkpoint in force."""

import multiprocessing
import os
import signal
import traceback
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from distrain.checkpoint.commit import verify
from distrain.checkpoint.layout import committed
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import State, whole
from tests.distrain.checkpoint.calls import Calls
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


def small(step: int) -> State:
    return {"model/w": whole(torch.full((5,), float(step)), writes=True)}


def save(stage: Path, step: int, async_save: bool = False) -> None:
    checkpoints = manager(stage, keep_last=1, async_save=async_save)
    assert checkpoints.restore(small(0)) is not None  # so that step 1 is retired after the commit
    checkpoints.save(step, small(step), {"step": step})
    checkpoints.wait()


def in_a_fork(body, *args) -> int:
    """Call ``body`` in a child; return its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            body(*args)
        except BaseException:  # noqa: BLE001  (the end of a process)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def save_and_die(stage: Path, kill_at: int, async_save: bool) -> None:
    Calls(kill_at).install()
    save(stage, 2, async_save)


def kill_at_every_call(folder: Path, async_save: bool) -> None:
    """In a fresh process, because one with threads cannot safely be forked."""
    torch.set_num_threads(1)
    steps: list[int] = []
    while True:
        kill_at = len(steps) + 1
        stage = folder / str(kill_at)
        manager(stage).save_and_wait(1, small(1), {"step": 1})
        code = in_a_fork(save_and_die, stage, kill_at, async_save)
        visible = [stage / "checkpoints" / str(name) for name in committed(stage / "checkpoints")]
        assert [verify(path) for path in visible] == [None] * len(visible), kill_at
        recorder = Recorder()
        state = small(0)
        restored = manager(stage, recorder).restore(state)
        assert restored is not None
        step, extra = restored
        assert extra == {"step": step}
        assert_same_bits(state, small(step))
        assert recorder.events == [], kill_at  # nothing half-done has a visible name
        save(stage, 3)  # and the run goes on
        assert names(stage / "checkpoints") == ["step_000003"]
        if code == 0:
            break
        assert code == -signal.SIGKILL, kill_at
        steps.append(step)
    # Up to the rename the old one counts, from then on the new one, with no way back.
    assert steps == sorted(steps)
    assert set(steps) == {1, 2}
    assert len(steps) > 20


@pytest.mark.parametrize("async_save", [pytest.param(False, marks=pytest.mark.seams), True])
def test_a_save_killed_after_any_call_costs_at_most_itself(tmp_path, async_save):
    process = multiprocessing.get_context("forkserver").Process(
        target=kill_at_every_call, args=(tmp_path, async_save)
    )
    process.start()
    process.join(120)
    process.kill()
    assert process.exitcode == 0


def restore_killed_after_every_call(folder: Path) -> None:
    torch.set_num_threads(1)
    kill_at, code = 0, -signal.SIGKILL
    while code:
        assert code == -signal.SIGKILL
        kill_at += 1
        stage = folder / str(kill_at)
        checkpoints = manager(stage)
        for step in (1, 2):
            checkpoints.save_and_wait(step, small(step), {"step": step})
        (stage / "checkpoints" / "step_000002" / "extra.json").unlink()
        (stage / "checkpoints" / ".saving-step_000003-12345678").mkdir()
        code = in_a_fork(restore_and_die, stage, kill_at)
        assert manager(stage).restore(small(0)) == (1, {"step": 1})
        assert names(stage / "checkpoints") == ["step_000001"]
    assert kill_at > 3


def restore_and_die(stage: Path, kill_at: int) -> None:
    Calls(kill_at).install()
    manager(stage).restore(small(0))


def test_a_restore_killed_after_any_call_is_done_again(tmp_path):
    process = multiprocessing.get_context("forkserver").Process(
        target=restore_killed_after_every_call, args=(tmp_path,)
    )
    process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 0


def two_save_and_one_dies(stage: Path, victim: int, kill_at: int) -> None:
    host = HostGroup()
    checkpoints = manager(stage)
    state = cut(full_tensors(1), "ranges", host.rank, 2)
    checkpoints.save_and_wait(1, state, {"step": 1})
    if host.rank == victim:
        Calls(kill_at).install()
    # The survivor hears of it at once; that another was lost is no failure of its own.
    with pytest.raises(RuntimeError, match="save of step 2 was cut off with another rank"):
        checkpoints.save_and_wait(2, cut(full_tensors(2), "ranges", host.rank, 2), {"step": 2})
    os._exit(3)


def restore_step_one(stage: Path) -> None:
    host = HostGroup()
    recorder = Recorder()
    state = cut(zeroed(full_tensors(0)), "ranges", host.rank, 2)
    assert manager(stage, recorder).restore(state) == (1, {"step": 1})
    assert_same_bits(state, cut(full_tensors(1), "ranges", host.rank, 2))
    assert recorder.events == []


@pytest.mark.parametrize(("victim", "kill_at"), [(0, 3), (0, 30), (1, 1), (1, 20)])
def test_a_rank_killed_in_a_save_leaves_the_previous_checkpoint(tmp_path, victim, kill_at):
    with pytest.raises(ProcessExitedException) as ended:
        run_ranks(tmp_path, 2, two_save_and_one_dies, tmp_path, victim, kill_at)
    assert (ended.value.error_index, ended.value.exit_code) in {
        (victim, -signal.SIGKILL),
        (1 - victim, 3),
    }
    run_ranks(tmp_path, 2, restore_step_one, tmp_path)
    assert names(tmp_path / "checkpoints") == ["step_000001"]


def log_of_a_save(folder: Path) -> None:
    manager(folder).save_and_wait(1, small(1), {})
    calls = Calls()
    calls.install()
    manager(folder).save_and_wait(2, small(2), {})
    log = [(call, Path(path)) for call, path in calls.log]
    (shown,) = (
        at for at, (call, path) in enumerate(log) if call == "rename" and "saving" in path.name
    )
    saving = log[shown][1]
    before, after = log[:shown], log[shown + 1 :]
    for file in names(folder / "checkpoints" / "step_000002"):
        written = ".metadata.tmp" if file == ".metadata" else file
        of_file = [call for call, path in before if path == saving / written]
        assert "write" in of_file, file
        assert "fsync" in of_file[len(of_file) - of_file[::-1].index("write") :], file
    # The names inside are synced after the last of them appeared, the folder's own name after it.
    assert before[-1] == ("fsync", saving)
    assert after[0] == ("fsync", folder / "checkpoints")


def test_everything_is_synced_before_its_name_is_shown(tmp_path):
    process = multiprocessing.get_context("forkserver").Process(
        target=log_of_a_save, args=(tmp_path,)
    )
    process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 0
