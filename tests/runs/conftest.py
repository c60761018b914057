import pytest

from tests.tiny import distrain, write_recipe


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """A run that nothing disturbed, and the recipe it came from."""
    folder = tmp_path_factory.mktemp("twin")
    recipe = write_recipe(folder)
    finished = distrain(folder / "runs", "run", str(recipe))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return recipe, folder / "runs" / "tiny"
