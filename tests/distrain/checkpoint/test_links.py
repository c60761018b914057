"""A checkpoint that was moved away and linked is read through the link, and removed as a link."""

import random
import shutil

import pytest

from distrain.checkpoint.layout import committed, free_name
from tests.distrain.checkpoint.states import (
    Recorder,
    assert_same_bits,
    cut,
    full_tensors,
    manager,
    names,
    zeroed,
)

STEPS = (100, 200)


def state_of(step):
    return cut(full_tensors(step), "rows", 0, 1)


@pytest.fixture(params=["relative", "absolute"])
def stage(request, tmp_path):
    """Both checkpoints lie elsewhere, with links in their place."""
    stage, elsewhere = tmp_path / "stage", tmp_path / "elsewhere"
    checkpoints = manager(stage)
    for step in STEPS:
        checkpoints.save_and_wait(step, state_of(step), {"step": step})
    shutil.move(stage / "checkpoints", elsewhere)
    (stage / "checkpoints").mkdir()
    for name in names(elsewhere):
        target = f"../../elsewhere/{name}" if request.param == "relative" else elsewhere / name
        (stage / "checkpoints" / name).symlink_to(target)
    return stage


def restored(stage, recorder=None):
    state = cut(zeroed(full_tensors(0)), "rows", 0, 1)
    checkpoints = manager(stage, recorder)
    found = checkpoints.restore(state)
    assert found is not None
    assert_same_bits(state, state_of(found[0]))
    return checkpoints, found


def test_a_linked_checkpoint_is_resumed_from(stage):
    recorder = Recorder()
    assert restored(stage, recorder)[1] == (200, {"step": 200})
    assert recorder.events == []


def test_retention_removes_the_link_and_not_what_it_leads_to(stage, tmp_path):
    checkpoints, _ = restored(stage)
    for step in (300, 400):
        checkpoints.save_and_wait(step, state_of(step), {"step": step})
    assert names(stage / "checkpoints") == ["step_000300", "step_000400"]
    assert restored(stage)[1] == (400, {"step": 400})
    for step in STEPS:
        assert len(names(tmp_path / "elsewhere" / f"step_000{step}")) == 4


def test_a_damaged_one_is_put_aside_as_a_link_that_still_leads_there(stage, tmp_path):
    part = next((tmp_path / "elsewhere" / "step_000200").glob("__0_*"))
    content = bytearray(part.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 1
    part.write_bytes(content)
    recorder = Recorder()
    assert restored(stage, recorder)[1] == (100, {"step": 100})
    assert recorder.kinds == ["quarantined"]
    aside = stage / "quarantine" / "step_000200"
    assert aside.is_symlink()
    assert aside.resolve() == part.parent
    assert names(stage / "checkpoints") == ["step_000100"]


def test_a_link_that_leads_nowhere_is_a_damaged_checkpoint(stage, tmp_path):
    shutil.rmtree(tmp_path / "elsewhere" / "step_000200")
    assert str(free_name(stage / "checkpoints", 200)) == "step_000200.1"
    recorder = Recorder()
    assert restored(stage, recorder)[1] == (100, {"step": 100})
    assert recorder.events[0][1]["reason"] == "commit.json is missing"


def test_a_link_to_a_file_is_a_damaged_checkpoint(stage, tmp_path):
    shutil.rmtree(tmp_path / "elsewhere" / "step_000200")
    (tmp_path / "elsewhere" / "step_000200").write_text("moved to the archive")
    recorder = Recorder()
    assert restored(stage, recorder)[1] == (100, {"step": 100})
    assert recorder.kinds == ["quarantined"]


def test_a_link_that_was_to_be_removed_when_the_run_was_killed_blocks_nothing(stage):
    name = committed(stage / "checkpoints")[0]
    hidden = name.hidden_for_deleting()
    (stage / "checkpoints" / str(name)).rename(stage / "checkpoints" / hidden)
    assert restored(stage)[1] == (200, {"step": 200})
    assert names(stage / "checkpoints") == ["step_000200"]
