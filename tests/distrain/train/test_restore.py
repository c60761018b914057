"""What was saved besides tensors is looked at before a run goes on from it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distrain.checkpoint.commit import digest_file, read_commit, write_commit
from distrain.errors import CheckpointError
from distrain.train.loop import train
from distrain.train.run import find_fault
from tests.distrain.optim.toys import register
from tests.distrain.tasks import pairwise
from tests.distrain.train.synthetic import make_run, make_stage
from tests.distrain.train.test_resume import close
from tests.ranks import run_ranks
from tests.tiny import events

Extra = dict[str, Any]


def without_validation(extra: Extra) -> None:
    """As older versions saved it."""
    extra.pop("validation", None)


def without_task(extra: Extra) -> None:
    """As older versions saved it, which knew no other task."""
    extra.pop("task")


def as_of_adamw_alone(extra: Extra) -> None:
    """As older versions saved it, which knew no other optimizer."""
    steps = extra.pop("optimizer")["scalars"]["step"]
    extra["optimizer_steps"] = {name: int(step) for name, step in steps.items()}


CHANGES: dict[str, Callable[[Extra], object]] = {
    "a number for the task": lambda extra: extra.update(task=3),
    "nothing of it": lambda extra: extra.clear(),
    "another step": lambda extra: extra["progress"].update(step=3),
    "a word for a count": lambda extra: extra["progress"].update(tokens_seen="many"),
    "a count that there is not": lambda extra: extra["progress"].update(worth=3),
    "a list for a mapping": lambda extra: extra.update(optimizer=[4]),
    "no schedule": lambda extra: extra["data"].pop("schedule"),
    "segments of another form": lambda extra: extra["data"].update(schedule=[{"first": 0}]),
    "a choice of another form": lambda extra: extra.update(validation=[]),
}


def commit_again(checkpoint: Path, how: Callable[[Extra], object]) -> None:
    """Change the record, and commit it as if it had been saved so."""
    path = checkpoint / "extra.json"
    extra = json.loads(path.read_text())
    how(extra)
    path.write_text(json.dumps(extra))
    commit = read_commit(checkpoint)
    (checkpoint / "commit.json").unlink()
    files = {**commit.files, path.name: digest_file(path)}
    write_commit(checkpoint, replace(commit, files=files))


def go_on_from_another_record(folder: Path) -> None:
    stage = make_stage("single", precision="fp32", max_steps=4, checkpoint={"save_steps": 2})
    run = make_run(folder, stage)
    train(run)
    close(run)
    last = folder / "pretrain/checkpoints/step_000004"
    (folder / "saved.json").write_bytes((last / "extra.json").read_bytes())
    register()
    run = make_run(folder, make_stage("single", precision="fp32", optimizer={"name": "counted"}))
    with pytest.raises(CheckpointError) as caught:
        run.restore()
    (folder / "refusal.txt").write_text(str(caught.value))
    close(run)
    pairwise.register()
    other = make_stage("single", precision="fp32", training={"task": pairwise.NAME})
    run = make_run(folder, other)
    with pytest.raises(CheckpointError) as caught:
        run.restore()
    (folder / "other-task.txt").write_text(str(caught.value))
    close(run)
    for change, step in (
        (without_validation, 4),
        (without_task, 4),
        (as_of_adamw_alone, 4),
        (dict.clear, 2),
    ):
        commit_again(last, change)
        run = make_run(folder, stage)
        assert run.restore().step == step
        assert set(run.engine.optimizer_scalars().scalars["step"].values()) == {float(step)}
        close(run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restore")
    run_ranks(folder / "ranks", 1, go_on_from_another_record, folder)
    return folder


def test_a_record_that_no_run_has_saved_is_put_aside_and_the_one_before_used(folder):
    (event,) = events(folder, "quarantined")
    assert event["checkpoint"] == "step_000004"
    reason = str(event["reason"])
    assert reason.startswith("what was saved besides tensors cannot be understood: KeyError")


def test_the_state_of_another_optimizer_is_refused_with_both_names_and_what_to_do(folder):
    refusal = (folder / "refusal.txt").read_text()
    assert "found the state of optimizer adamw; expected that of counted" in refusal
    assert "Set optimizer.name to adamw" in refusal
    assert "training.max_steps to 4" in refusal


def test_the_checkpoint_of_another_task_is_refused_with_both_names_and_what_to_do(folder):
    refusal = (folder / "other-task.txt").read_text()
    assert "found pairwise, with a checkpoint that was trained for causal_lm" in refusal
    assert "Set training.task to causal_lm to go on." in refusal
    assert "from its weights alone" in refusal


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_is_wrong_with_it_is_found(folder, change):
    saved = json.loads((folder / "saved.json").read_text())
    assert find_fault(4, saved) is None
    change(saved)
    assert find_fault(4, saved) is not None
