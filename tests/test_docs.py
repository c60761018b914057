"""The recipes that the documentation shows are recipes."""

import re
from pathlib import Path

import pytest

from distrain.config.reading.load import load_recipe

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = [
    (page.name, block)
    for page in sorted(DOCS.glob("*.md"))
    for block in re.findall(r"^```yaml\n(name: .*?)^```", page.read_text(), re.S | re.M)
]


def test_there_are_recipes_to_check():
    assert {name for name, _ in BLOCKS} >= {"data.md"}


@pytest.mark.parametrize(("page", "text"), BLOCKS)
def test_a_recipe_of_the_documentation_is_valid(page, text, tmp_path):
    path = tmp_path / page.replace(".md", ".yaml")
    path.write_text(text)
    recipe = load_recipe(path, []).recipe
    assert recipe.stages
