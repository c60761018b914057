"""The page's table is what the tests run: what works is run, and what is refused is refused."""

import json

import pytest

from launcher.inputs.axes import check_axes
from tests.distrain.axes.families import FAMILIES
from tests.distrain.axes.harness import assert_as_alone, run_over
from tests.distrain.axes.table import PAGE, WORKS, page_with_table, refused
from tests.launcher.small_run import RECIPE, load_small

TRAINING = "    training: {max_steps"


def messages(folder, family, parallelism):
    """Check a recipe by its sizes, as every command does before anything is started."""
    model = {"model_type": family, "config": FAMILIES[family]}
    sections = {"model": model, "parallelism": parallelism}
    written = "".join(f"    {name}: {json.dumps(value)}\n" for name, value in sections.items())
    recipe = load_small(folder, text=RECIPE.replace(TRAINING, written + TRAINING)).recipe
    return [finding.message for finding in check_axes(recipe)]


def test_the_page_has_the_table_of_the_tests():
    page = PAGE.read_text()
    assert page == page_with_table(page), "run: python -m tests.distrain.axes.table --write"


@pytest.mark.axes
@pytest.mark.parametrize("combination", WORKS, ids=lambda combination: combination.name)
def test_what_works_is_as_in_one_process(combination, tmp_path):
    cases = combination.cases
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.parametrize("combination", WORKS, ids=lambda combination: combination.name)
def test_what_works_is_let_through(combination, tmp_path):
    known = next(family for family in (*combination.families, "qwen3") if family in FAMILIES)
    assert messages(tmp_path, known, dict(combination.parallelism)) == []


@pytest.mark.parametrize("name", refused())
def test_what_is_refused_is_refused_before_the_queue(name, tmp_path):
    parallelism, reason = refused()[name]
    found = messages(tmp_path, "mixtral", parallelism)
    assert any(reason in message and message.startswith("parallelism.") for message in found)
