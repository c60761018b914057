import os

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.records import read_state, write_json
from launcher.proving.scratch import checkpoints_of, copy_run, make_scratch, return_to

STEPS = (5, 10, 15)


@pytest.fixture
def run(tmp_path):
    """A run of two stages, with all that processes leave about."""
    made = RunFolder(tmp_path / "runs" / "small")
    tokens, trained = made.stage("prepare"), made.stage("pretrain")
    for step in STEPS:
        write(trained.checkpoints / f"step_{step:06d}" / ".metadata", f"index {step}")
        write(trained.checkpoints / f"step_{step:06d}" / "__0_0.distcp", f"tensors {step}")
    for path in (
        *(made.resolved, made.recipe, made.events, made.lock, made.stop, made.jobs),
        *(made.meeting.orders, made.wandb / "latest", tokens.split("train") / "00000.bin"),
        *(trained.metrics, trained.lock, trained.log(1), trained.sink_run_id, trained.result),
        *(trained.meeting("7.0").start, trained.quarantine / "x", trained.incident(1)),
        trained.checkpoints / ".saving-step_000020-1" / "half",
    ):
        write(path, path.name)
    write_json(trained.state, {"state": "done", "attempt": 2, "step": 15})
    os.mkfifo(trained.path / "pipe")
    return made


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_copy_has_what_a_stage_goes_on_from_and_nothing_of_processes(run, tmp_path):
    copy = copy_run(run, tmp_path / "scratch" / "small", ["prepare", "pretrain"])
    checkpoints = [
        f"pretrain/checkpoints/step_{step:06d}/{name}"
        for step in STEPS
        for name in (".metadata", "__0_0.distcp")
    ]
    records = [f"pretrain/{name}" for name in ("metrics.jsonl", "result.json", "state.json")]
    own = ["resolved.yaml", "recipe.yaml", "events.jsonl"]
    assert files(copy.root) == {*own, *records, *checkpoints, "prepare/train/00000.bin"}


def test_what_is_written_in_a_copy_is_not_written_in_the_run(run, tmp_path):
    copy = copy_run(run, tmp_path / "scratch", ["prepare", "pretrain"])
    for name in ("pretrain/checkpoints/step_000005/__0_0.distcp", "prepare/train/00000.bin"):
        assert (copy.root / name).samefile(run.root / name)  # immutable: costs no room
    with copy.stage("pretrain").metrics.open("a") as stream:
        stream.write("more")
    assert run.stage("pretrain").metrics.read_text() == "metrics.jsonl"


def test_a_stage_that_is_not_named_begins_anew(run, tmp_path):
    copy = copy_run(run, tmp_path / "scratch", ["prepare"])
    assert not copy.stage("pretrain").path.exists()


def test_a_copy_goes_back_to_a_step(run, tmp_path):
    folder = copy_run(run, tmp_path / "scratch", ["pretrain"]).stage("pretrain")
    return_to(folder, 10)
    assert [step for step, _ in checkpoints_of(folder)] == [5, 10]
    assert not folder.result.exists()
    state = read_state(folder)
    assert state is not None
    assert (state["state"], state["attempt"], state["step"]) == ("stopped", 2, 10)
    assert [step for step, _ in checkpoints_of(run.stage("pretrain"))] == list(STEPS)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7"):
        return_to(folder, 7)


def test_the_second_save_of_a_step_comes_after_the_first(run):
    folder = run.stage("pretrain")
    (folder.checkpoints / "step_000010.1").mkdir()
    names = [path.name for _, path in checkpoints_of(folder)]
    assert names == ["step_000005", "step_000010", "step_000010.1", "step_000015"]


def test_scratch_lies_where_the_runs_lie_and_else_where_the_system_has_it(tmp_path):
    runs = tmp_path / "runs"
    assert make_scratch(runs, "chaos").parent == tmp_path, "there are no runs yet"
    runs.mkdir()
    made = make_scratch(runs, "chaos")
    assert made.parent == runs
    assert made.name.startswith(".chaos-")
    elsewhere = make_scratch(tmp_path / "no" / "folder" / "runs", "chaos")
    elsewhere.rmdir()
    assert not elsewhere.is_relative_to(tmp_path)
