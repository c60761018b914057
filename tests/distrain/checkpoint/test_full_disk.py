"""Saving on a disk that is really full: a small file system of its own."""

import os
import subprocess

import pytest
import torch

from distrain.errors import ExitCode, PreflightError
from distrain.parallel.global_tensor import whole
from distrain.runs import durable
from tests.distrain.checkpoint.states import Recorder, assert_same_bits, manager, names

MB = 1 << 20


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MB: room for three checkpoints and a bit."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def state_of(step):
    return {"model/w": whole(torch.full((MB // 4,), float(step)), writes=True)}


def checkpoints_on(disk):
    return names(disk / "checkpoints")


@pytest.mark.parametrize("async_save", [True, False])
def test_older_checkpoints_make_room_for_one_that_does_not_fit(disk, async_save, caplog):
    recorder = Recorder()
    checkpoints = manager(disk, recorder, keep_last=9, async_save=async_save)
    for step in range(1, 7):
        checkpoints.save(step, state_of(step), {"step": step})
        checkpoints.wait()
    assert recorder.kinds == ["checkpoint"] * 6
    assert checkpoints_on(disk) == ["step_000005", "step_000006"]
    assert "no room for a checkpoint: 2 older ones were deleted" in caplog.text
    restored = state_of(0)
    assert manager(disk).restore(restored) == (6, {"step": 6})
    assert_same_bits(restored, state_of(6))


def fill(path):
    with path.open("ab") as stream:
        while True:
            try:
                stream.write(bytes(1 << 16))
                stream.flush()
            except OSError:
                return


def test_a_disk_that_stays_full_ends_the_stage_and_the_newest_good_one_stays(disk):
    recorder = Recorder()
    checkpoints = manager(disk, recorder, keep_last=2)
    for step in (1, 2):
        checkpoints.save(step, state_of(step), {"step": step})
    checkpoints.wait()
    fill(disk / "others")
    checkpoints.save(3, state_of(3), {"step": 3})  # in the place of step 1
    checkpoints.wait()
    assert checkpoints_on(disk) == ["step_000002", "step_000003"]
    durable.remove(disk / "checkpoints" / "step_000002")  # what others take of it is gone
    (disk / "checkpoints" / ".deleting-step_000001-12345678").mkdir()
    fill(disk / "others")
    for step in (4, 5):
        checkpoints.save(step, state_of(step), {"step": step})
        checkpoints.wait()
    with pytest.raises(PreflightError) as caught:
        checkpoints.save_and_wait(6, state_of(6), {"step": 6})
    message = str(caught.value)
    assert "No space left on device" in message
    assert "3 failed saves in a row (checkpoint.max_failed_saves=3)" in message
    assert "expected room for one checkpoint of 1 MB" in message
    assert "it goes on from step 3." in message
    assert caught.value.exit_code is ExitCode.PREFLIGHT
    assert recorder.kinds == ["checkpoint"] * 3 + ["checkpoint_failed"] * 3
    assert checkpoints_on(disk) == ["step_000003"]
    (disk / "others").unlink()
    again = manager(disk, keep_last=2)
    restored = state_of(0)
    assert again.restore(restored) == (3, {"step": 3})
    assert_same_bits(restored, state_of(3))
    again.save_and_wait(4, state_of(4), {})
    assert checkpoints_on(disk) == ["step_000003", "step_000004"]
