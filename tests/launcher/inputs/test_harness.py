"""What the files of tasks say of them, before anything is started."""

import pytest

from distrain.config.recipe import Recipe
from launcher.inputs import harness
from launcher.inputs.harness import check_harness
from launcher.preflight import missing_modules

FILES = {
    "choice.yaml": "task: made_choice\noutput_type: multiple_choice\n",
    "writing.yaml": "task: made_writing\ninclude: base.yml  # shared\n",
    "base.yml": "output_type: 'generate_until'\n",
    "group.yaml": "group: made\ntask: [made_writing]\n",
}
LOOP, STAGE = ("eval", "harness"), ("harness",)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "library_folder", lambda: None)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def recipe_of(folder, *tasks):
    asked = {"tasks": tasks, "include_path": str(folder)}
    training = {"max_steps": 1}
    stages = {
        "pretrain": {"kind": "pretrain", "training": training, "eval": {"harness": asked}},
        "evaluate": {"kind": "evaluate", "needs": "pretrain", "harness": asked},
    }
    return Recipe.model_validate({"name": "made", "stages": stages})


def test_a_task_that_wants_answers_written_is_refused_in_the_loop_alone(folder):
    [found] = check_harness(recipe_of(folder, "made_choice", "made_writing"))
    assert (found.stage, found.path) == ("pretrain", (*LOOP, "tasks", 1))
    assert found.message.startswith("eval.harness.tasks: found 'made_writing', which asks for")
    assert list(check_harness(recipe_of(folder, "made_choice"))) == []


def test_of_a_group_the_stage_knows_more(folder):
    assert list(check_harness(recipe_of(folder, "made"))) == []


def test_a_folder_that_is_none_is_named_in_both(tmp_path):
    found = list(check_harness(recipe_of(tmp_path / "nothing", "made_choice")))
    assert [each.path for each in found] == [(*LOOP, "tasks", 0), (*STAGE, "tasks", 0)]


def test_the_extra_is_asked_for_where_a_stage_in_training_needs_it(folder):
    recipe = recipe_of(folder, "made_choice")
    stages = {"pretrain": recipe.stages["pretrain"]}
    recipe = recipe.model_copy(update={"stages": stages})
    [missing] = missing_modules(recipe, lambda name: None if name == "lm_eval" else object())
    assert "lm-eval" in missing.remedy
