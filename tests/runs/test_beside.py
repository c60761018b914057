"""What stands beside a model that was tuned whole, or beside a folder, on examples of one's own."""

import json
import shutil

import pytest

from distrain.__main__ import main
from distrain.config.harness import HarnessConfig
from distrain.config.reading.load import load_recipe
from distrain.errors import PreflightError
from distrain.runs.folder import RunFolder
from distrain.stages.context import StageContext
from distrain.stages.evaluate import run_stage
from launcher.run_files import make_folder, open_run
from tests.distrain.evaluation.harness.made import write_model, write_tasks
from tests.ranks import exit_codes

RECIPE = """\
name: whole
seed: 7
defaults:
  training: {{sequence_length: 64, global_batch_size: 8, micro_batch_size: 4, max_steps: 2}}
  optimizer: {{learning_rate: 3e-3}}
stages:
  full:
    kind: sft
    lora: null
    model: {{from_pretrained: {model}}}
    data: {{path: {chats}, validation_fraction: 0.2, truncation: drop}}
  further:
    kind: sft
    lora: null
    needs: full
    data: {{path: {chats}, validation_fraction: 0.2, truncation: drop}}
  of_folder: {{kind: evaluate, needs: full, data: {{path: {chats}}}}}
  of_stage: {{kind: evaluate, needs: further, data: {{path: {chats}}}}}
  folder: {{kind: evaluate, model: {{from_pretrained: {model}}}, data: {{path: {chats}}}}}
  pair:
    kind: evaluate
    model: {{from_pretrained: {model}}}
    data: {{path: {chats}, beside: {beside}}}
launch: {{processes_per_node: 1}}
"""
BOTH = ("loss", "loss_shuffled_prompts")


def write_chats(path, count=40):
    rows = [
        {"prompt": f"Read {n}.", "answer": f"{n * n} is it{'.' * (n % 5)}"} for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_stage_of(root, stage):
    assert main(["stage", str(root), stage]) == 0


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run whose stages trained every parameter: of a folder, and of the stage before."""
    folder = tmp_path_factory.mktemp("whole")
    paths = {
        "model": write_model(folder / "base", has_bos=False),
        "beside": write_model(folder / "smaller", has_bos=False, hidden_size=32),
    }
    text = RECIPE.format(chats=write_chats(folder / "chats.jsonl"), **paths)
    (folder / "whole.yaml").write_text(text)
    loaded = load_recipe(folder / "whole.yaml")
    run = RunFolder(folder / "whole")
    make_folder(run)
    open_run(run, loaded)
    for stage in ("full", "further"):
        assert exit_codes(folder / "ranks", 1, run_stage_of, run.root, stage) == [0]
    return loaded.recipe, run


def measure(tuned, name):
    recipe, run = tuned
    result = run_stage(StageContext(recipe, run, name, attempt=1)).result
    assert result is not None
    return result["data"]


@pytest.fixture(scope="module")
def base(tuned):
    """The folder that the first stage started from, alone."""
    return measure(tuned, "folder")


def test_after_full_tuning_the_folder_that_it_started_from_stands_beside_it(tuned, base):
    found = measure(tuned, "of_folder")
    for name in BOTH:
        beside = name.replace("loss", "loss_base")
        assert found[beside] == base[name]
        assert abs(found[name] - base[name]) > 1e-3  # the control: it was tuned
    gain = found["gain"]
    assert gain["value"] == pytest.approx(found["loss_base"] - found["loss"])
    assert gain["low"] < gain["value"] < gain["high"]
    assert "alone" not in found


def test_after_a_stage_it_is_the_whole_model_of_that_one(tuned):
    before, found = measure(tuned, "of_folder"), measure(tuned, "of_stage")
    for name in BOTH:
        assert found[name.replace("loss", "loss_base")] == before[name]
        assert abs(found[name] - before[name]) > 1e-3


def test_what_is_gone_is_said_and_nothing_stands_beside(tuned, tmp_path):
    recipe, run = tuned
    copy = RunFolder(tmp_path / "whole")
    shutil.copytree(run.root, copy.root, symlinks=True)
    shutil.rmtree(copy.stage("full").checkpoints)
    found, known = measure((recipe, copy), "of_stage"), measure(tuned, "of_stage")
    assert found["alone"].startswith("what stage 'further' started from is gone")
    assert "gain" not in found
    assert [found[name] for name in BOTH] == [known[name] for name in BOTH]


def test_a_folder_stands_beside_the_one_that_is_named(tuned, base, tmp_path):
    assert base["alone"] == "of a folder nobody knows what it was made from (set data.beside)"
    assert "loss_base" not in base
    found = measure(tuned, "pair")
    assert [found[name] for name in BOTH] == [base[name] for name in BOTH]
    assert found["gain"]["value"] == pytest.approx(found["loss_base"] - found["loss"])
    assert abs(found["gain"]["value"]) > 1e-4
    recipe, run = tuned
    other = tmp_path / "other"
    shutil.copytree(recipe.stages["pair"].data.beside, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    stage = recipe.stages["pair"]
    data = stage.data.model_copy(update={"beside": str(other)})
    stages = recipe.stages | {"pair": stage.model_copy(update={"data": data})}
    with pytest.raises(PreflightError, match="reads the same tokens"):
        measure((recipe.model_copy(update={"stages": stages}), run), "pair")


def test_tasks_alone_need_no_test_split(tuned, tmp_path):
    recipe, run = tuned
    harness = HarnessConfig(
        tasks=("made_choice",), include_path=str(write_tasks(tmp_path / "tasks"))
    )
    for name in ("of_folder", "folder"):
        stage = recipe.stages[name].model_copy(update={"data": None, "harness": harness})
        asked = recipe.model_copy(update={"stages": recipe.stages | {name: stage}})
        result = run_stage(StageContext(asked, run, name, attempt=1)).result
        assert result is not None
        assert result["measured"] == {}
        assert 0 <= result["tasks"]["made_choice"]["acc"] <= 1
    assert not run.test_opened.exists()
