"""A run tells chat templates the day on which it was made, however long it goes on."""

import re
from datetime import date

import pytest

from distrain.config.reading.load import load_recipe, read_resolved
from distrain.config.reading.problems import RecipeErrors
from distrain.config.recipe import SftStage
from distrain.errors import PreflightError
from distrain.runs.folder import RunFolder
from launcher import run_files

RECIPE = """\
name: dated
stages:
  one: {kind: sft, model: {from_pretrained: base}, data: {path: chats.jsonl},
    training: {max_steps: 4, sequence_length: 64}}
"""
ANOTHER = RECIPE + RECIPE.split("stages:\n")[1].replace("one:", "two:")
MADE, LATER = date(2026, 11, 30), date(2026, 12, 1)


def load(folder, text=RECIPE, *overrides):
    path = folder / "dated.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)


def days(run):
    stages = read_resolved(run.resolved).stages
    return {n: each.data.template_date for n, each in stages.items() if isinstance(each, SftStage)}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that was made yesterday."""
    monkeypatch.setattr(run_files, "_today", lambda: MADE)
    run = RunFolder(tmp_path / "dated")
    run.root.mkdir()
    assert run_files.open_run(run, load(tmp_path)) is None
    monkeypatch.setattr(run_files, "_today", lambda: LATER)
    return run


def test_the_day_is_that_of_the_run_and_of_a_later_stage_its_own(run, tmp_path):
    assert days(run) == {"one": "2026-11-30"}
    assert run_files.open_run(run, load(tmp_path)) == []
    changes = run_files.open_run(run, load(tmp_path, ANOTHER))
    assert changes is not None
    assert {change.key.split(".")[0] for change in changes} == {"two"}
    assert days(run) == {"one": "2026-11-30", "two": "2026-12-01"}


def test_another_day_is_a_change_that_a_begun_stage_refuses(run, tmp_path):
    stated = load(tmp_path, RECIPE, "stages.one.data.template_date=2026-12-24")
    changed = [change.key for change in run_files.open_run(run, stated) or ()]
    assert changed == ["one.data.template_date"]
    assert days(run) == {"one": "2026-12-24"}
    checkpoint = run.stage("one").path
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text('{"state": "stopped", "step": 2}')
    assert run_files.open_run(run, load(tmp_path)) == []
    with pytest.raises(PreflightError, match="template_date"):
        run_files.open_run(run, load(tmp_path, RECIPE, "stages.one.data.template_date=2026-12-25"))


def test_a_run_of_an_older_version_goes_on_without_a_day(run, tmp_path):
    text = run.resolved.read_text()
    without = re.sub(r"\n *template_date: .*", "", text)
    assert without != text
    run.resolved.write_text(without)
    assert run_files.open_run(run, load(tmp_path)) == []
    assert days(run) == {"one": None}


@pytest.mark.parametrize("day", ["2026-02-30", "today", "30.11.2026"])
def test_what_is_no_day_is_refused(tmp_path, day):
    with pytest.raises(RecipeErrors, match="template_date"):
        load(tmp_path, RECIPE, f"stages.one.data.template_date={day}")
