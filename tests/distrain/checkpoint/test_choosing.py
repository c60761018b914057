"""Whatever happens to a checkpoint on disk is found, put aside, and the previous one is used."""

import random
import shutil
from pathlib import Path

import pytest

from distrain.checkpoint.choosing import newest_good
from distrain.checkpoint.commit import verify
from distrain.checkpoint.layout import COMMIT
from distrain.parallel.collectives import HostGroup
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

FILES = (".metadata", "__0_0.distcp", "__1_0.distcp", "commit.json", "extra.json")
NEWEST = "step_000200"


def save_two(stage: Path) -> None:
    host = HostGroup()
    checkpoints = manager(stage)
    for step in (100, 200):
        state = cut(full_tensors(step), "ranges", host.rank, host.world_size)
        checkpoints.save_and_wait(step, state, {"step": step})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    stage = tmp_path_factory.mktemp("saved")
    run_ranks(stage, 2, save_two, stage)
    assert names(stage / "checkpoints" / NEWEST) == sorted(FILES)
    return stage


@pytest.fixture
def stage(saved, tmp_path):
    shutil.copytree(saved / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def assert_previous_is_used(stage: Path, reason: str) -> None:
    recorder = Recorder()
    state = cut(zeroed(full_tensors(0)), "rows", 0, 1)
    assert manager(stage, recorder).restore(state) == (100, {"step": 100})
    assert_same_bits(state, cut(full_tensors(100), "rows", 0, 1))
    ((kind, fields),) = recorder.events
    assert (kind, fields["step"], fields["checkpoint"]) == ("quarantined", 200, NEWEST)
    assert reason in fields["reason"]
    assert names(stage / "checkpoints") == ["step_000100"]
    assert names(stage / "quarantine") == [NEWEST]


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_in_any_file_is_found(stage, file):
    flip(stage / "checkpoints" / NEWEST / file, random.Random(file))
    assert_previous_is_used(stage, file)


@pytest.mark.parametrize("file", FILES)
def test_no_flipped_bit_escapes(stage, file):
    path = stage / "checkpoints" / NEWEST / file
    whole = path.read_bytes()
    chance = random.Random(file)
    for _ in range(60):
        flip(path, chance)
        assert verify(path.parent) is not None
        path.write_bytes(whole)
    assert verify(path.parent) is None


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file_is_found(stage, file):
    path = stage / "checkpoints" / NEWEST / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_previous_is_used(stage, file)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_found(stage, file):
    (stage / "checkpoints" / NEWEST / file).unlink()
    assert_previous_is_used(stage, f"{file} is missing")


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_another_step_is_found(stage, file):
    other = stage / "checkpoints" / "step_000100" / file
    shutil.copy(other, stage / "checkpoints" / NEWEST / file)
    assert_previous_is_used(stage, file)


def test_all_files_of_another_step_are_found(stage):
    shutil.rmtree(stage / "checkpoints" / NEWEST)
    shutil.copytree(stage / "checkpoints" / "step_000100", stage / "checkpoints" / NEWEST)
    assert_previous_is_used(stage, f"{COMMIT} is that of step 100")


@pytest.mark.parametrize("content", ['{"commit":{"files":null}}', "[" * 200_000, "{}"])
def test_a_commit_record_of_an_absurd_form_is_damage(stage, content):
    (stage / "checkpoints" / NEWEST / COMMIT).write_text(content)
    assert_previous_is_used(stage, COMMIT)


def test_a_folder_in_the_place_of_the_commit_record_is_damage(stage):
    (stage / "checkpoints" / NEWEST / COMMIT).unlink()
    (stage / "checkpoints" / NEWEST / COMMIT).mkdir()
    assert_previous_is_used(stage, f"{COMMIT} is not a file")


def test_two_ranks_whose_files_changed_places_are_found(stage):
    one, two = (stage / "checkpoints" / NEWEST / f"__{rank}_0.distcp" for rank in range(2))
    kept = one.read_bytes()
    shutil.copy(two, one)
    two.write_bytes(kept)
    assert_previous_is_used(stage, "distcp")


def test_a_file_too_many_is_found(stage):
    (stage / "checkpoints" / NEWEST / "__2_0.distcp").touch()
    assert_previous_is_used(stage, "__2_0.distcp does not belong to it")


def test_when_none_is_whole_the_stage_begins_anew_and_says_so(stage):
    for name in ("step_000100", NEWEST):
        flip(stage / "checkpoints" / name / ".metadata", random.Random(0))
    recorder = Recorder()
    assert manager(stage, recorder).restore(cut(full_tensors(0), "rows", 0, 1)) is None
    assert recorder.kinds == ["quarantined", "quarantined"]
    assert names(stage / "quarantine") == ["step_000100", NEWEST]


def test_the_quarantine_keeps_every_one_of_the_same_name(stage):
    for _ in range(2):
        flip(stage / "checkpoints" / NEWEST / ".metadata", random.Random(0))
        checkpoints = manager(stage)
        restored = checkpoints.restore(cut(zeroed(full_tensors(0)), "rows", 0, 1))
        assert restored == (100, {"step": 100})
        checkpoints.save_and_wait(200, cut(full_tensors(200), "rows", 0, 1), {"step": 200})
    assert names(stage / "quarantine") == [NEWEST, f"{NEWEST}-1"]
    assert names(stage / "checkpoints") == ["step_000100", NEWEST]


def restore_on_three(stage: Path) -> None:
    host = HostGroup()
    recorder = Recorder()
    state = cut(zeroed(full_tensors(0)), "columns", host.rank, host.world_size)
    assert manager(stage, recorder).restore(state) == (100, {"step": 100})
    assert_same_bits(state, cut(full_tensors(100), "columns", host.rank, host.world_size))
    assert recorder.kinds == (["quarantined"] if host.rank == 0 else [])


@pytest.mark.parametrize("file", ["__1_0.distcp", "extra.json"])
def test_damage_in_the_share_of_one_rank_is_known_to_all(stage, file):
    flip(stage / "checkpoints" / NEWEST / file, random.Random(1))
    run_ranks(stage, 3, restore_on_three, stage)
    assert names(stage / "quarantine") == [NEWEST]


def test_other_stages_pass_over_damage_without_touching_it(stage):
    assert newest_good(stage / "checkpoints") == stage / "checkpoints" / NEWEST
    flip(stage / "checkpoints" / NEWEST / "__0_0.distcp", random.Random(0))
    assert newest_good(stage / "checkpoints") == stage / "checkpoints" / "step_000100"
    assert names(stage / "checkpoints") == ["step_000100", NEWEST]
    shutil.rmtree(stage / "checkpoints" / "step_000100")
    assert newest_good(stage / "checkpoints") is None
    assert newest_good(stage / "nowhere") is None
