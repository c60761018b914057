"""A user's model that changes under a run is noticed."""

from dataclasses import replace

import pytest

from distrain.config.reading.load import load_recipe
from distrain.errors import PreflightError
from distrain.runs.folder import RunFolder
from distrain.runs.records import read_json
from distrain.stages.context import StageContext
from distrain.stages.pretrained import require_same_folder

RECIPE = """\
name: own
stages:
  sft:
    kind: sft
    model: {{from_pretrained: {folder}}}
    data: {{path: pairs.jsonl}}
    training: {{max_steps: 4, sequence_length: 64}}
  export: {{kind: export, needs: sft}}
"""


@pytest.fixture
def context(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text(name)
    path = tmp_path / "own.yaml"
    path.write_text(RECIPE.format(folder=model))
    run = RunFolder(tmp_path / "runs" / "own")
    run.stage("sft").path.mkdir(parents=True)
    return StageContext(load_recipe(path).recipe, run, "sft", 0)


def trained(context):
    (context.folder.checkpoints / "step_000002").mkdir(parents=True)
    (context.folder.checkpoints / "step_000002" / "commit.json").write_text("{}")


def test_until_the_first_checkpoint_the_model_may_change(context, tmp_path):
    require_same_folder(context)
    first = read_json(context.folder.pretrained)
    assert first is not None
    assert set(first) == {"config.json", "tokenizer.json", "model.safetensors"}
    (tmp_path / "model/config.json").write_text("another")
    require_same_folder(context)
    assert read_json(context.folder.pretrained) != first


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("stage", ["sft", "export"])
def test_afterwards_no_stage_goes_on_with_another_one(context, tmp_path, name, stage):
    require_same_folder(context)
    trained(context)
    later = replace(context, name=stage)
    require_same_folder(later)
    (tmp_path / "model" / name).write_text("another")
    with pytest.raises(PreflightError, match=f"another {name} than when 'sft' began") as refused:
        require_same_folder(later)
    assert "Put that model back" in str(refused.value)


def test_a_run_of_an_older_version_goes_on_without_the_record(context):
    trained(context)
    require_same_folder(context)
    assert not context.folder.pretrained.exists()
