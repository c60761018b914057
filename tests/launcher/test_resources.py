import pytest

from distrain.config.reading.load import load_recipe
from distrain.errors import NotFoundError
from launcher.resources import find_recipe, resource_folder, shipped_recipes


def test_every_shipped_recipe_is_valid_and_says_what_it_does():
    recipes = shipped_recipes()
    assert recipes
    for recipe in recipes:
        load_recipe(recipe.path)
        assert len(recipe.summary) > 10


def test_a_recipe_is_found_by_path_before_name(tmp_path, monkeypatch):
    (tmp_path / "quickstart").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quickstart").read_text() == "mine"


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(NotFoundError, match="a folder"):
        find_recipe(str(tmp_path))


def test_a_misspelt_path_names_the_recipe_beside_it(tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text("name: base")
    monkeypatch.chdir(tmp_path)
    for typed, meant in (
        ("basee.yaml", "base.yaml"),
        (f"{tmp_path}/bse.yaml", f"{tmp_path}/base.yaml"),
    ):
        with pytest.raises(NotFoundError) as caught:
            find_recipe(typed)
        assert caught.value.remedy == f"Did you mean '{meant}'?"


def test_slurm_templates_are_shipped():
    assert list(resource_folder("slurm").glob("*.j2"))
