"""A run of a family outside the table goes by the defaults that it began with."""

import json
from pathlib import Path

import pytest

from distrain.config.models import TransformersConfig
from distrain.config.reading.load import load_recipe, read_resolved
from distrain.config.recipe import PretrainStage
from distrain.errors import PreflightError
from distrain.runs.folder import RunFolder
from launcher import model_counts
from launcher.run_files import as_in_folder, change_run, open_run

RECIPE = """\
name: outside
defaults: {{training: {{max_steps: 4, sequence_length: 64}}}}
stages:
  text: {{kind: prepare, tokenizer: {{vocab_size: 300}},
    data: {{source: {{kind: files, paths: [corpus.txt]}}}}}}
  first: {{kind: pretrain, needs: text,
      model: {{model_type: glm, config: {config}}}}}
"""
RELEASE = {"hidden_size": 4096, "rope_parameters": {"rope_theta": 1.0}, "hidden_act": "silu"}


@pytest.fixture
def release(monkeypatch):
    """Answers as of an installed transformers, whose defaults a test may change."""
    defaults = dict(RELEASE)

    def ask(question):
        return {"parameters": 1, "config": defaults | json.loads(question)["model"]["config"]}

    monkeypatch.setattr(model_counts, "_ask", ask)
    monkeypatch.setattr(model_counts, "_known", {})
    return defaults


def load(folder, config):
    path = folder / "outside.yaml"
    path.write_text(RECIPE.format(config=json.dumps(config)))
    return load_recipe(path)


def later(release):
    release |= {"hidden_act": "gelu", "new_setting": 1}
    model_counts._known.clear()


def config_of(run):
    stage = read_resolved(run.resolved).stages["first"]
    assert isinstance(stage, PretrainStage)
    assert isinstance(stage.model, TransformersConfig)
    return stage.model.config


def begin(run: RunFolder) -> None:
    run.stage("first").path.mkdir(parents=True, exist_ok=True)
    run.stage("first").state.write_text(json.dumps({"state": "running", "step": 2}))


def test_another_release_changes_nothing_of_a_run(tmp_path: Path, release):
    run = RunFolder(tmp_path / "outside")
    run.root.mkdir()
    assert open_run(run, load(tmp_path, {"hidden_size": 64})) is None
    pinned = {**RELEASE, "hidden_size": 64}
    assert config_of(run) == pinned
    begin(run)
    later(release)
    assert open_run(run, load(tmp_path, {"hidden_size": 64})) == []
    assert config_of(run) == pinned
    resumed = as_in_folder(run, load_recipe(run.resolved))
    assert change_run(run, resumed.recipe) == []
    # What is stated otherwise is still a change of what the stage has built on.
    with pytest.raises(PreflightError, match=r"config\.hidden_size 64 -> 32"):
        open_run(run, load(tmp_path, {"hidden_size": 32}))


def test_a_stage_that_has_not_begun_takes_the_release_that_is_there(tmp_path: Path, release):
    run = RunFolder(tmp_path / "outside")
    run.root.mkdir()
    open_run(run, load(tmp_path, {"hidden_size": 64}))
    later(release)
    open_run(run, load(tmp_path, {"hidden_size": 64}))
    assert config_of(run) == {**RELEASE, "hidden_size": 64, "hidden_act": "gelu", "new_setting": 1}


def test_a_folder_of_an_older_version_stays_as_it_is(tmp_path: Path, release, monkeypatch):
    run = RunFolder(tmp_path / "outside")
    run.root.mkdir()
    with monkeypatch.context() as absent:  # nothing is known, as before
        absent.setattr(model_counts, "_ask", lambda question: {})
        open_run(run, load(tmp_path, {"hidden_size": 64}))
    assert config_of(run) == {"hidden_size": 64}
    begin(run)
    model_counts._known.clear()
    assert open_run(run, load(tmp_path, {"hidden_size": 64})) == []
    assert config_of(run) == {"hidden_size": 64}


@pytest.mark.models
@pytest.mark.parametrize("model_type", ["glm", "cohere", "phimoe", "starcoder2"])
def test_all_settings_stated_make_the_same_model(model_type):
    construction = pytest.importorskip("distrain.models.transformers.construction")
    written = {"num_hidden_layers": 3}
    whole = construction.whole_config(model_type, written, 64)
    assert whole["num_hidden_layers"] == 3
    assert len(whole) > 10
    short, long = (construction.family_config(model_type, c, 64) for c in (written, whole))
    assert short.to_dict() == long.to_dict()
