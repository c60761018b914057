"""A user's model that changes under a run is noticed."""

import os
from dataclasses import replace

import pytest

from distrain.config.reading.load import load_recipe
from distrain.errors import PreflightError
from distrain.runs.folder import RunFolder
from distrain.runs.records import read_json, write_json
from distrain.runs.sums import digest_of
from distrain.stages import pretrained
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
NAMES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("chat_template.jinja", "model.safetensors"),
)


@pytest.fixture
def context(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in NAMES:
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
    assert set(first) == set(NAMES)
    (tmp_path / "model/config.json").write_text("another")
    require_same_folder(context)
    assert read_json(context.folder.pretrained) != first


@pytest.mark.parametrize("name", NAMES)
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


def test_a_record_of_an_older_version_is_compared_as_far_as_it_goes(context, tmp_path):
    trained(context)
    files = [tmp_path / "model" / name for name in ("config.json", "model.safetensors")]
    write_json(context.folder.pretrained, {file.name: digest_of(file) for file in files})
    require_same_folder(context)  # from here on the other files are known too
    (tmp_path / "model/chat_template.jinja").write_text("another")
    with pytest.raises(PreflightError, match=r"another chat_template\.jinja"):
        require_same_folder(context)


@pytest.fixture
def digested(monkeypatch):
    """The names of the files that were read."""
    names = []

    def digest(file):
        names.append(file.name)
        return digest_of(file)

    monkeypatch.setattr(pretrained, "digest_of", digest)
    return names


def test_a_file_is_read_again_only_if_it_moved(context, tmp_path, digested, monkeypatch):
    file = tmp_path / "model" / "model.safetensors"
    require_same_folder(context)
    trained(context)
    digested.clear()
    require_same_folder(context)
    assert sorted(digested) == sorted(NAMES)  # too new for a clock of ticks
    monkeypatch.setattr(pretrained, "TICK_NS", 0)
    require_same_folder(context)
    digested.clear()
    require_same_folder(context)
    assert digested == []
    # Another file of the same size, with the same time of modification.
    before = file.stat()
    file.write_text("MODEL.safetensors")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(PreflightError, match=r"another model\.safetensors"):
        require_same_folder(context)
    # And a copy of the one that it was is the model again.
    file.write_text("model.safetensors")
    require_same_folder(context)
