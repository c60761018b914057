"""A plan over two nodes without a scheduler, and pages of ranks that were never started."""

import pytest

from distrain.config.data import DataConfig
from distrain.config.launch import LaunchConfig
from distrain.config.recipe import PrepareStage, Recipe
from distrain.config.sources import FilesSource
from distrain.runs.folder import RunFolder
from launcher.plan import Plan
from tests.launcher.backends.made_up_ranks import Ranks
from tests.launcher.backends.two_nodes import STAGES, free_port


@pytest.fixture
def make_plan(tmp_path):
    def make(nodes: int = 2, rendezvous: str | None = "node1:PORT", restarts: int = 1) -> Plan:
        data = DataConfig(source=FilesSource(kind="files", paths=("corpus",)))
        if rendezvous is not None:
            rendezvous = rendezvous.replace("PORT", str(free_port()))
        launch = LaunchConfig(
            backend="torchrun", nodes=nodes, rendezvous=rendezvous, max_restarts=restarts
        )
        stage = PrepareStage(kind="prepare", data=data)
        recipe = Recipe(name="mine", stages={s.name: stage for s in STAGES}, launch=launch)
        root = tmp_path / "it's mine"
        root.mkdir(exist_ok=True)
        return Plan(recipe, RunFolder(root), STAGES)

    return make


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """Pages of two ranks that have made thirty steps."""
    ranks = Ranks(tmp_path, monkeypatch)
    for number in range(30):
        ranks.step(number)
    return ranks
