import json
import shutil

import pytest

from distrain.__main__ import main
from distrain.config.reading.load import dump_resolved, load_recipe
from distrain.errors import PreflightError
from distrain.runs.durable import write_text
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.lock import hold
from distrain.runs.records import is_done, read_state, write_json
from distrain.runs.sums import write_sums
from distrain.tools.reopen import reopen
from tests.distrain.checkpoint.states import names
from tests.distrain.stages.test_products import DAMAGES, DONE, flip, last, train
from tests.tiny import write_recipe


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    return dump_resolved(load_recipe(write_recipe(tmp_path_factory.mktemp("recipe"))).recipe)


@pytest.fixture
def run(tmp_path, resolved):
    run = RunFolder(tmp_path / "tiny")
    write_text(run.resolved, resolved)
    train(run, "pretrain", (10, 15, 20))
    return run


def told(run, capsys, stage="pretrain"):
    assert main(["reopen", str(run.root), stage]) == 0
    answer = json.loads(capsys.readouterr().out)
    return answer["exit_code"], answer["text"]


def events(run):
    return [(e["event"], e["step"]) for e in read_records(run.events)]


def test_a_whole_product_stays(run, capsys):
    code, text = told(run, capsys)
    assert (code, is_done(run, "pretrain")) == (0, True)
    assert text == "pretrain: what it made is whole and stays"
    assert events(run) == []


@pytest.mark.parametrize("damage", ["a flipped bit", "gone", "another one"])
def test_a_product_that_is_not_whole_is_made_again_from_the_one_before(run, capsys, damage):
    DAMAGES[damage][0](run)
    _, text = told(run, capsys)
    assert text.endswith("; made again from step 15")
    state = read_state(run.stage("pretrain"))
    assert state is not None
    assert (state["state"], state["step"], state["attempt"]) == ("stopped", 15, 1)
    assert "step_000020" not in names(run.stage("pretrain").checkpoints)
    moved = [("quarantined", 20)] * (damage != "gone")
    assert events(run) == [*moved, ("reopened", 15)]
    assert told(run, capsys) == (0, "pretrain: not done, goes on")


def test_damaged_ones_before_it_are_passed_over(run, capsys):
    flip(last(run) / "__0_0.distcp")
    flip(last(run).with_name("step_000015") / ".metadata")
    assert told(run, capsys)[1].endswith("; made again from step 10")


def test_without_any_it_begins_anew_and_says_so(run, capsys):
    shutil.rmtree(run.stage("pretrain").checkpoints)
    text = told(run, capsys)[1]
    assert text.endswith("; made again from step 0, for no checkpoint is whole")


def test_a_torn_result_is_written_again_from_the_last_checkpoint(run, capsys):
    run.stage("pretrain").result.write_text('{"steps"')
    text = told(run, capsys)[1]
    assert text == "pretrain: result.json names no checkpoint; made again from step 20"
    assert last(run).exists()


def test_a_kill_between_moving_and_recording_is_made_up_for(run, capsys):
    before = read_state(run.stage("pretrain"))
    flip(last(run) / "__0_0.distcp")
    told(run, capsys)
    write_json(run.stage("pretrain").state, before)
    assert told(run, capsys)[1].endswith("; made again from step 15")


def test_a_stage_that_runs_is_left_alone(run):
    flip(last(run) / "__0_0.distcp")
    with hold(run.stage("pretrain").lock, "tiny"), pytest.raises(PreflightError):
        reopen(run, "pretrain", "pretrain", patience_s=0.1)
    assert is_done(run, "pretrain")


def test_an_error_reaches_the_launcher_with_its_code(run, capsys):
    commit = last(run) / "commit.json"
    commit.unlink()
    commit.symlink_to(commit)  # an error that says nothing about the bytes
    code, text = told(run, capsys)
    assert code == 6
    assert "Make the folder readable" in text
    assert is_done(run, "pretrain")


EXPORT_DAMAGES = {
    "a changed file": (
        lambda model: (model / "base/model.safetensors").write_bytes(b"other"),
        "huggingface/base: model.safetensors does not match its digest",
    ),
    "a missing file": (
        lambda model: (model / "model.safetensors").unlink(),
        "huggingface: model.safetensors is missing",
    ),
    "gone": (shutil.rmtree, "huggingface is gone"),
}


@pytest.mark.parametrize(("damage", "found"), EXPORT_DAMAGES.values(), ids=EXPORT_DAMAGES)
def test_a_damaged_export_is_made_again(run, capsys, damage, found):
    folder = run.stage("export")
    for place in (folder.huggingface, folder.huggingface / "base"):
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(b"weights")
        write_sums(place)
    write_json(folder.state, DONE)
    assert told(run, capsys, "export") == (0, "export: what it made is whole and stays")
    damage(folder.huggingface)
    assert told(run, capsys, "export") == (0, f"export: {found}; made again")
    assert not is_done(run, "export")
    assert events(run) == [("reopened", 0)]
