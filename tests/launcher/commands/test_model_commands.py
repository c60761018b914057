import json
import subprocess

import pytest

from distrain.errors import ExitCode
from distrain.runs.records import write_json
from launcher.commands import asking
from launcher.commands.show import next_steps
from tests.launcher.small_run import new_run

pytestmark = pytest.mark.usefixtures("runs_dir")


def test_generate_without_an_export_says_what_to_run(distrain, tmp_path):
    new_run(tmp_path)
    code, _, err = distrain("generate", "small", "def ")
    assert code == 4
    assert "distrain export small" in err


def test_generate_samples_unless_told_otherwise_and_says_so(distrain, monkeypatch, tmp_path):
    commands = []

    def run_child(argv, **_):
        commands.append(argv)
        return subprocess.CompletedProcess(argv, 0)

    monkeypatch.setattr(subprocess, "run", run_child)
    run = new_run(tmp_path).run
    folder = run.stage("export").huggingface
    folder.mkdir(parents=True)
    state = {"state": "done", "attempt": 1, "step": 25, "requeue": False, "time": ""}
    write_json(run.stage("pretrain").state, state)

    code, _, err = distrain("generate", "small", "--seed", "4", "--", "-x")

    assert code == 0
    assert f"loads {folder}, made by stage export of pretrain at step 25" in err
    given = ["--temperature=0.8", "--repetition-penalty=1.1", "--seed=4", "--", "-x"]
    assert commands[-1][-5:] == given
    distrain("generate", "small", "x", "--max-memory", "1.5GiB")
    assert "--max-memory=1610612736" in commands[-1]
    for wrong, found in (("20G", "'20G' is not a size"), ("0", "found 0; expected at least 1")):
        code, _, err = distrain("generate", "small", "x", "--max-memory", wrong)
        assert code == 2
        assert found in err
    document = json.loads(distrain("generate", "small", "x", "--json")[1])
    assert (document["run"], document["folder"]) == ("small", str(run.root))
    shown = distrain("generate", "--help")[1]
    assert "0.8" in shown
    assert "1.1" in shown


def test_the_hint_to_generate_has_a_prompt_from_the_held_out_text(tmp_path):
    run = new_run(tmp_path).run
    assert next_steps(run, done=True)[-1] == 'generate small "PROMPT"'
    run.stage("prepare").path.mkdir()
    write_json(run.stage("prepare").result, {"prompt": "Der alte Mann"})
    assert next_steps(run, done=True)[-1] == 'generate small "Der alte Mann"'


def test_after_chats_alone_the_hint_asks_as_a_user(tmp_path):
    run = new_run(tmp_path).run
    run.stage("sft").path.mkdir()
    write_json(run.stage("sft").result, {"pairs": {"train": 9}})
    assert next_steps(run, done=True)[-1] == 'generate small "PROMPT" --chat'


def test_a_folder_of_adapters_is_no_run(distrain, tmp_path):
    content = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    write_json(tmp_path / "adapter_config.json", content)
    code, _, err = distrain("generate", str(tmp_path), "x")
    assert code == 4
    assert "adapters of peft, made for org/base" in err


def test_an_error_of_nought_and_a_missing_one_are_written(distrain, monkeypatch, tmp_path):
    # All answers right have no spread, and a perplexity has no error.
    found = {"arc": {"acc": 1.0, "acc_stderr": 0.0}, "wiki": {"word_perplexity": 12.5}}
    answer = (None, tmp_path, ExitCode.DONE, json.dumps(found))
    monkeypatch.setattr(asking, "ask_tasks", lambda *_: answer)
    code, out, _ = distrain("evaluate", str(tmp_path), "--tasks", "arc,wiki")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[1:]]
    assert rows == [["arc", "acc", "1.0000", "0.0000"], ["wiki", "word_perplexity", "12.5000"]]
