"""Wherever a run is killed on its way back, it ends as its twin that was not."""

import json
import os
import shutil
import signal

import pytest

from distrain.checkpoint import choosing
from distrain.runs.folder import RunFolder
from distrain.runs.skips import append_skip, read_skips
from distrain.train import guards
from distrain.train.run import Run
from tests.distrain.train.test_rewinding import (
    assert_same,
    exact_steps,
    is_same_end,
    stage_of,
    train_through,
)
from tests.ranks import exit_codes, run_ranks


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def then_die(act):
    def acts(*arguments, **others):
        act(*arguments, **others)
        die()

    return acts


def write_half_a_line(folder, skip):
    whole = json.dumps(skip.to_json()).encode()
    with folder.skips.open("ab") as file:
        file.write(whole[: len(whole) // 2])
    die()


def die_going_back(run, rewound=None, *, restore=Run.restore):
    progress = restore(run, rewound)
    if rewound is not None:
        die()
    return progress


def die_saving(run, progress, *, save=Run.save):
    if run.guards.skips:
        die()
    return save(run, progress)


PLACES = {
    "in its line": lambda: setattr(guards, "append_skip", write_half_a_line),
    "decided": lambda: setattr(guards, "append_skip", then_die(append_skip)),
    "checkpoint put aside": lambda: setattr(choosing, "put_aside", then_die(choosing.put_aside)),
    "gone back": lambda: setattr(Run, "restore", die_going_back),
    "before the next checkpoint": lambda: setattr(Run, "save", die_saving),
}
"""Each as what arranges for the blow in a process of its own."""


def train_until_killed(folder, stage, place):
    PLACES[place]()
    train_through(folder, stage)


def killed_in_each_place(folder, engine):
    """Of each place: a run that is killed there goes on to its end."""
    for place in PLACES:
        train_through(folder / place, stage_of(engine))


@pytest.mark.seams
@pytest.mark.parametrize("engine", ["single", "fsdp", "zero2"])
def test_a_kill_anywhere_on_the_way_back_changes_nothing(engine, tmp_path):
    ranks = 1 if engine == "single" else 2
    run_ranks(tmp_path / "ranks", ranks, train_through, tmp_path / "twin", stage_of(engine))
    for place in PLACES:
        folder = tmp_path / place
        codes = exit_codes(folder, ranks, train_until_killed, folder, stage_of(engine), place)
        assert -signal.SIGKILL in codes, place
        assert not (folder / "pretrain/checkpoints/step_000024").exists(), place
    run_ranks(tmp_path / "ranks", ranks, killed_in_each_place, tmp_path, engine)
    for place in PLACES:
        assert_same(tmp_path / place, tmp_path / "twin")


def from_an_older_checkpoint(folder):
    """Lose what was saved after step 5, and train again: obeying the decisions, and without."""
    stage = replace_policy(stage_of(), keep_last=9)
    train_through(folder / "twin", stage)
    for name, keeps in (("obeys", True), ("ignores", False)):
        shutil.copytree(folder / "twin", folder / name)
        for path in (folder / name / "pretrain" / "checkpoints").glob("step_*"):
            if path.name > "step_000005":
                shutil.rmtree(path)
        if not keeps:
            (folder / name / "pretrain" / "skips.jsonl").unlink()
        # No longer judged: what was decided holds all the same.
        train_through(folder / name, stage_of(on_spike="report"))


def replace_policy(stage, **checkpoint):
    return stage.model_copy(update={"checkpoint": stage.checkpoint.model_copy(update=checkpoint)})


@pytest.mark.seams
def test_decisions_hold_from_an_older_checkpoint_and_by_another_policy(tmp_path):
    run_ranks(tmp_path / "ranks", 1, from_an_older_checkpoint, tmp_path)
    assert_same(tmp_path / "obeys", tmp_path / "twin")
    assert not is_same_end(tmp_path / "ignores", tmp_path / "twin")
    assert exact_steps(tmp_path / "ignores") != exact_steps(tmp_path / "twin")


def on_one_rank(folder):
    train_through(folder, stage_of("single", "report"))


@pytest.mark.seams
def test_decisions_hold_at_another_world_size(tmp_path):
    run_ranks(tmp_path / "ranks", 2, train_through, tmp_path / "two", stage_of("fsdp"))
    decided = read_skips(RunFolder(tmp_path / "two").stage("pretrain"))
    for path in (tmp_path / "two" / "pretrain" / "checkpoints").glob("step_*"):
        if path.name > "step_000016":
            shutil.rmtree(path)
    run_ranks(tmp_path / "ranks", 1, on_one_rank, tmp_path / "two")
    assert read_skips(RunFolder(tmp_path / "two").stage("pretrain")) == decided
    steps = exact_steps(tmp_path / "two")
    passed = {s["train/global_step"] for s in steps if s["train/not_applied"] == "rewind"}
    assert passed == {n for skip in decided for n in range(skip.first_step, skip.last_step + 1)}
