"""Sources that a pretraining stage names; the kept set of mistakes has a file of most."""

import pytest

from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from tests.distrain.config.conftest import TINY

ONE = "source: {kind: python_stdlib}"
TWO = "sources: {web: {kind: files, paths: [a]}, code: {kind: python_stdlib}}"
STEPS = "    training: {max_steps: 10}\n"


def loaded(recipe, data, sources=TWO):
    recipe.write_text(TINY.replace(ONE, sources).replace(STEPS, f"{STEPS}    data: {{{data}}}\n"))
    return load_recipe(recipe)


@pytest.mark.parametrize(
    ("data", "sources"),
    [
        ("mixture: {web: 1}", TWO),
        ("mixture: {code: 2, web: 0.5}, max_epochs: {web: 2}", TWO),
        ("mixture: [{from_step: 0, weights: {web: 1}}, {from_step: 9, weights: {code: 1}}]", TWO),
        ("max_epochs: 3", TWO),
        ("max_epochs: {code: 1.5}", TWO),
        ("mixture: {main: 1}, max_epochs: {main: 2}", ONE),
    ],
)
def test_sources_that_are_prepared_may_be_named(recipe, data, sources):
    assert loaded(recipe, data, sources).notes == ()


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ("mixture: {web: 1}, max_epochs: {code: 2}", "data.max_epochs.code has no effect"),
        (
            "mixture: [{from_step: 0, weights: {web: 1}}, {from_step: 10, weights: {code: 1}}]",
            "data.mixture from step 10 on has no effect: the run has 10 steps",
        ),
    ],
)
def test_what_is_never_read_is_noted(recipe, data, note):
    (found,) = loaded(recipe, data).notes
    assert note in found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("mixture: [web]", "data.mixture.0: found the text 'web'; expected a mapping"),
        ("mixture: web", "data.mixture: found the text 'web'; expected a mapping or a list"),
        ("mixture: []", "data.mixture: found an empty list; expected at least 1 entries"),
        ("mixture: {web: heavy}", "data.mixture.web: found the text 'heavy'; expected a number"),
        ("mixture: [{weights: {web: 1}}]", "missing key 'from_step' in data.mixture.0"),
        ("max_epochs: many", "found the text 'many'; expected a number or a mapping"),
        ("max_epochs: {web: 0}", "data.max_epochs.web: found 0; expected a number greater than 0"),
    ],
)
def test_of_several_forms_the_one_that_was_written_is_judged(recipe, data, message):
    with pytest.raises(RecipeErrors) as caught:
        loaded(recipe, data)
    (problem,) = caught.value.problems
    assert message in problem.message
