"""The test split is used once, also when the stage is killed on its last steps."""

import pytest

from distrain.config.reading.load import load_recipe
from distrain.errors import PreflightError
from distrain.evaluation import test_set
from distrain.runs.folder import RunFolder
from distrain.runs.records import write_json
from distrain.stages.context import StageContext
from distrain.stages.evaluate import run_stage
from tests.tiny import write_recipe

FIGURES = {"documents": {"loss": 2.5}}


@pytest.fixture
def used(tmp_path):
    """A run that holds nothing but a finished use of its test split."""
    run = RunFolder(tmp_path / "tiny")
    test_set.claim(run, "evaluate")
    test_set.finish(run, "evaluate")
    path = write_recipe(tmp_path)
    recipes = {"evaluate": load_recipe(path).recipe}
    path.write_text(path.read_text().replace("  evaluate:", "  second:"))
    recipes["second"] = load_recipe(path).recipe
    return lambda name="evaluate": StageContext(recipes[name], run, name, attempt=2)


def test_a_stage_killed_after_its_measurement_keeps_the_figures(used):
    write_json(used().folder.result, FIGURES)
    assert run_stage(used()).result == FIGURES


def test_a_use_without_figures_is_refused(used):
    with pytest.raises(PreflightError, match="--again"):
        run_stage(used())


def test_the_use_of_another_stage_gives_no_figures(used):
    write_json(used("second").folder.result, FIGURES)
    with pytest.raises(PreflightError, match="--again"):
        run_stage(used("second"))
