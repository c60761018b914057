"""A prepare stage done in shares, by processes that do not know of each other."""

import os
import signal
import subprocess
import sys

import pytest

from distrain.__main__ import run_phase as run_and_record
from distrain.config.data import SPLITS
from distrain.config.recipe import Recipe
from distrain.data.corpus.plan import load_plan
from distrain.data.corpus.work_folder import WorkFolder
from distrain.errors import DataError, ExitCode, PreflightError
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.phases import WHOLE, Share, prepare_progress
from distrain.stages.prepare import prepare
from distrain.stages.prepare_phases import phase_lock, run_phase
from tests.distrain.stages.preparing import content_of, stage, write_module

CHILD = """
import os, signal, sys
from pathlib import Path
from distrain.runs.phases import Share
from distrain.config.recipe import PrepareStage
from distrain.runs.folder import StageFolder
from distrain.stages.prepare_phases import run_phase
settings, root, phase, share, kill_at = sys.argv[1:]
writes = 0
def count(name, arguments):
    global writes
    if name == "os.rename":
        writes += 1
        if writes == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
stage = PrepareStage.model_validate_json(settings)
folder = StageFolder(Path(root), "prepare")
sys.exit(0 if run_phase(stage, folder, phase, Share.parse(share)) else 1)
"""
TASKS = 3


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for number in range(48):
        write_module(folder / f"module_{number:02}.py", number)
    return folder


def settings_of(sources, **data):
    return stage(sources, data={"range_bytes": 5_000, "keep_cleaned": True} | data)


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory):
    """The stage as one process makes it."""
    folder = StageFolder(tmp_path_factory.mktemp("whole"), "prepare")
    return folder, prepare(settings_of(sources), folder)


def ranges_of(folder):
    plan = load_plan(folder.plan)
    assert plan is not None
    return plan.ranges


def progress_of(folder):
    progress = prepare_progress(folder)
    assert progress is not None
    return progress


def in_shares(settings, folder, phase, order=range(TASKS)):
    return [run_phase(settings, folder, phase, Share(index, TASKS)) for index in order]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shares_in_any_order_make_the_bytes_of_one_process(sources, whole, tmp_path, order):
    folder = StageFolder(tmp_path, "prepare")
    settings = settings_of(sources)
    assert run_phase(settings, folder, "plan", WHOLE)
    assert len(ranges_of(folder)) >= 6
    assert all(in_shares(settings, folder, "clean", order))
    assert run_phase(settings, folder, "decide", WHOLE)
    assert all(in_shares(settings, folder, "encode", order))
    made = {file: file.stat().st_mtime_ns for file in (folder.work / "cleaned").rglob("*")}
    figures = prepare(settings, folder)
    assert {file: file.stat().st_mtime_ns for file in made} == made, "cleaned twice"
    assert figures | {"seconds": 0} == whole[1] | {"seconds": 0}
    assert content_of(folder.path) == content_of(whole[0].path)


def test_nothing_is_left_to_encode_after_the_shares(sources, tmp_path, monkeypatch):
    folder = StageFolder(tmp_path, "prepare")
    settings = settings_of(sources)
    run_phase(settings, folder, "plan", WHOLE)
    in_shares(settings, folder, "clean")
    progress = progress_of(folder)
    assert progress.cleaned == progress.ranges
    run_phase(settings, folder, "decide", WHOLE)
    in_shares(settings, folder, "encode")
    progress = progress_of(folder)
    assert progress.encoded == progress.ranges
    for job in ("CleanJob", "EncodeJob"):
        monkeypatch.setattr(f"distrain.data.corpus.pipeline.{job}", None)
    prepare(settings, folder)


def test_what_the_shares_leave_undone_the_stage_does(sources, whole, tmp_path):
    folder = StageFolder(tmp_path, "prepare")
    settings = settings_of(sources)
    run_phase(settings, folder, "plan", WHOLE)
    run_phase(settings, folder, "clean", Share(1, TASKS))
    assert not run_phase(settings, folder, "encode", Share(0, TASKS)), "before it is decided"
    assert not folder.encoded.exists()
    run_phase(settings, folder, "decide", WHOLE)
    run_phase(settings, folder, "encode", Share(2, TASKS))
    prepare(settings, folder)
    assert content_of(folder.path) == content_of(whole[0].path)


def test_on_the_fly_the_held_out_splits_are_shared(sources, tmp_path):
    settings = settings_of(sources, on_the_fly=True).model_copy(
        update={"pairs": stage(sources, pairs={"kind": "none"}).pairs}
    )
    folders = [StageFolder(tmp_path / name, "prepare") for name in ("one", "shares")]
    for phase in ("plan", "clean", "decide", "encode"):
        shares = [Share(index, TASKS) for index in range(TASKS)]
        for share in shares if phase in ("clean", "encode") else [WHOLE]:
            assert run_phase(settings, folders[1], phase, share)
    for folder in folders:
        prepare(settings, folder)
    assert content_of(folders[0].path) == content_of(folders[1].path)


def run_child(settings, root, phase, share, kill_at=0):
    return subprocess.run(
        [sys.executable, "-c", CHILD, settings.model_dump_json(), root, phase, share, str(kill_at)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_a_task_that_was_killed_goes_on_from_its_ranges(sources, whole, tmp_path):
    folder = StageFolder(tmp_path, "prepare")
    settings = settings_of(sources)
    run_phase(settings, folder, "plan", WHOLE)
    work = WorkFolder(folder.work)
    ranges = ranges_of(folder)
    in_shares(settings, folder, "clean", (0, 2))
    killed = run_child(settings, str(tmp_path), "clean", "1/3", kill_at=3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    first, second = (work.documents(ranges[number]) for number in (1, 1 + TASKS))
    assert first.exists()
    assert not second.exists()
    inode = first.stat().st_ino
    assert run_child(settings, str(tmp_path), "clean", "1/3").returncode == 0
    assert first.stat().st_ino == inode, "finished, yet made again"
    run_phase(settings, folder, "decide", WHOLE)
    killed = run_child(settings, str(tmp_path), "encode", "0/3", kill_at=6)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    in_shares(settings, folder, "encode")
    prepare(settings, folder)
    assert content_of(folder.path) == content_of(whole[0].path)


def test_what_a_killed_task_was_writing_does_not_stay(sources, whole, tmp_path):
    folder = StageFolder(tmp_path, "prepare")
    settings = settings_of(sources)
    run_phase(settings, folder, "plan", WHOLE)
    killed = run_child(settings, str(tmp_path), "clean", "0/3", kill_at=2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(folder.cleaned.glob("*/.*")), "not in the middle of a file"
    prepare(settings, folder)
    assert content_of(folder.path) == content_of(whole[0].path)


def test_a_plan_of_other_settings_is_left_alone(sources, tmp_path):
    folder = StageFolder(tmp_path, "prepare")
    run_phase(settings_of(sources), folder, "plan", WHOLE)
    before = content_of(folder.path)
    other = settings_of(sources, min_characters=5)
    assert in_shares(other, folder, "clean") == [False] * TASKS
    assert in_shares(other, folder, "encode") == [False] * TASKS
    assert content_of(folder.path) == before


def test_a_stage_that_is_prepared_leaves_nothing_to_share(sources, whole):
    settings = settings_of(sources)
    before = content_of(whole[0].path)
    assert run_phase(settings, whole[0], "decide", WHOLE)
    assert run_phase(settings, whole[0], "encode", Share(0, TASKS))
    assert content_of(whole[0].path) == before


def test_shares_work_together_but_none_twice_and_no_other_phase_beside_them(tmp_path):
    folder = StageFolder(tmp_path, "prepare")

    def lock(phase, share=WHOLE):
        return phase_lock(folder, "mine", phase, share, patience_s=0.1)

    with lock("clean", Share(0, 2)):
        with lock("clean", Share(1, 2)):
            pass
        for phase, share in (("clean", Share(0, 2)), ("decide", WHOLE), ("plan", WHOLE)):
            with pytest.raises(PreflightError, match="another living process"), lock(phase, share):
                pass
    with lock("decide"), pytest.raises(PreflightError), lock("encode", Share(0, 2)):
        pass
    with lock("decide"):
        pass


def test_state_and_result_are_left_to_the_stage_but_not_an_error(sources, tmp_path):
    gone = settings_of(tmp_path / "absent")
    recipe = Recipe(name="mine", stages={"prepare": settings_of(sources), "gone": gone})
    run = RunFolder(tmp_path / "mine")
    assert run_and_record(recipe, run, "prepare", "plan", WHOLE) == ExitCode.DONE
    assert run_and_record(recipe, run, "prepare", "encode", Share(0, 2)) == ExitCode.STOPPED
    assert not run.stage("prepare").state.exists()
    with pytest.raises(DataError):
        run_and_record(recipe, run, "gone", "plan", WHOLE)
    assert "no file or folder" in run.stage("gone").error.read_text()


def test_the_locks_of_the_shares_go_with_the_work(sources, whole, tmp_path):
    run = RunFolder(tmp_path)
    recipe = Recipe(name="mine", stages={"prepare": settings_of(sources)})
    run_and_record(recipe, run, "prepare", "plan", WHOLE)
    run_and_record(recipe, run, "prepare", "clean", Share(0, 2))
    folder = run.stage("prepare")
    prepare(settings_of(sources), folder)
    folder.lock.unlink()
    assert content_of(folder.path) == content_of(whole[0].path)
    assert {path.name for path in folder.path.iterdir()} >= set(SPLITS)
