"""A real four-node Slurm for the tests of this folder, in a folder of its own."""

import os
from pathlib import Path

import pytest

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.runs.folder import RunFolder
from tests.cluster.real_slurm import Cluster, StandInRun, install_runtime


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.do("up", "4")
        os.environ["SLURM_CONF"] = str(cluster.folder / "slurm.conf")
        yield cluster
    finally:
        cluster.do("down")
        os.environ.pop("SLURM_CONF", None)


@pytest.fixture
def cluster(running_cluster):
    """The cluster with all four nodes free, before and after."""
    running_cluster.restore()
    return running_cluster


@pytest.fixture
def stand_in_run(tmp_path, monkeypatch):
    """A run folder whose path needs quoting, and a runtime that only counts."""
    python = Path(install_runtime(tmp_path / "stand in", "stand_in.py"))
    monkeypatch.chdir(tmp_path)  # jobs start here, without the packages of this checkout
    root = tmp_path / 'it\'s 100% "mine" $HOME' / "counting"
    root.mkdir(parents=True)
    site = SiteConfig(
        env={"SETTING": "a \"b\" $c 'd'"},
        # There is no such command but by the setup.
        setup=("export FROM_SETUP='module load'", f"export PATH='{python.parent}':$PATH"),
        python=python.name,
    )
    launch = LaunchConfig.model_validate(
        {"backend": "slurm", "grace_period": "12s", "max_restarts": 1, "node_checks": "off"}
    )
    return StandInRun(RunFolder(root), launch, site)
