"""What each node of a cluster without a scheduler runs."""

import os
import socket
import subprocess
import sys

import pytest

from distrain.config.data import DataConfig
from distrain.config.launch import LaunchConfig
from distrain.config.layout import Layout
from distrain.config.recipe import PrepareStage, Recipe
from distrain.config.sources import FilesSource
from distrain.errors import ExitCode, RecipeError, TrainingError
from distrain.runs.failures import failure_of
from distrain.runs.folder import RunFolder
from distrain.runs.records import read_state
from launcher.backends.torchrun import commands_per_node, node_here, run_node
from launcher.plan import Plan, StagePlan

STAGES = (
    StagePlan("prepare", "prepare", (), 1, 1, None, None, None),
    StagePlan("pretrain", "pretrain", ("prepare",), 2, 1, 1, Layout("fsdp", 2, 1, 2), 1),
    StagePlan("export", "export", ("pretrain",), 1, 1, None, None, None),
)

# Writes down who it is; the first process of a stage records that the stage is done.
RUNTIME = """
import os, sys
from pathlib import Path
stage = Path(sys.argv[2]) / sys.argv[3]
stage.mkdir(exist_ok=True)
rank = os.environ.get("RANK", "0")
(stage / f"rank{rank}of{os.environ.get('WORLD_SIZE', '1')}").touch()
if rank == "0":
    record = '{"state": "%s", "attempt": 1, "step": 0, "requeue": true}' % os.environ["END"]
    (stage / "state.json").write_text(record)
"""


@pytest.fixture
def make_plan(tmp_path):
    def make(nodes: int = 2, rendezvous: str | None = "node1:29400") -> Plan:
        data = DataConfig(source=FilesSource(kind="files", paths=("corpus",)))
        launch = LaunchConfig(backend="torchrun", nodes=nodes, rendezvous=rendezvous)
        stage = PrepareStage(kind="prepare", data=data)
        recipe = Recipe(name="mine", stages={s.name: stage for s in STAGES}, launch=launch)
        root = tmp_path / "it's mine"
        root.mkdir(exist_ok=True)
        return Plan(recipe, RunFolder(root), STAGES)

    return make


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    package = tmp_path / "stand_in" / "distrain"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "agent.py").write_text("from torch.distributed.run import main\n\nmain()\n")
    (package / "__main__.py").write_text(RUNTIME)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("END", "done")
    monkeypatch.chdir(tmp_path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def test_all_nodes_meet_at_the_rendezvous_and_only_the_first_runs_single_processes(make_plan):
    first, second = commands_per_node(make_plan(), "python")
    for text in (first, second):
        assert "--nnodes=2" in text
        assert "--rdzv-endpoint=node1:29400" in text
        assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in text
    assert "python -m distrain stage" in first
    assert "python -m distrain stage" not in second


def test_several_nodes_without_a_rendezvous_are_refused(make_plan):
    with pytest.raises(RecipeError, match=r"expected host:port of the first of 2 nodes"):
        commands_per_node(make_plan(rendezvous=None))


def test_one_node_needs_no_rendezvous(make_plan):
    assert len(commands_per_node(make_plan(nodes=1, rendezvous=None))) == 1


def test_a_machine_knows_whether_it_is_the_first_node(make_plan):
    assert node_here(make_plan(rendezvous="localhost:29400")) == 0
    assert node_here(make_plan(rendezvous="192.0.2.1:29400")) is None  # an address of no machine
    assert node_here(make_plan(rendezvous="no-such-host.invalid:1")) is None


def test_two_nodes_run_all_stages_together(make_plan, runtime):
    plan = make_plan(rendezvous=f"localhost:{free_port()}")
    texts = commands_per_node(plan, sys.executable)
    nodes = [subprocess.Popen(["bash", "-c", text], env=os.environ.copy()) for text in texts]
    assert [node.wait(timeout=120) for node in nodes] == [0, 0]
    found = {
        stage.name: sorted(p.name for p in plan.run.stage(stage.name).path.glob("rank*"))
        for stage in STAGES
    }
    assert found == {
        "prepare": ["rank0of1"],
        "pretrain": ["rank0of2", "rank1of2"],
        "export": ["rank0of1"],
    }


def test_a_stage_that_is_done_is_passed_over(make_plan, runtime):
    plan = make_plan(rendezvous="localhost:29400")
    for stage in STAGES:
        plan.run.stage(stage.name).path.mkdir(exist_ok=True)
        plan.run.stage(stage.name).state.write_text('{\n "state": "done"\n}')
    assert run_node(plan, 0) is ExitCode.DONE
    assert not list(plan.run.stage("export").path.glob("rank*"))


def test_a_stage_that_fails_ends_the_run_and_says_so(make_plan, runtime, monkeypatch):
    plan = make_plan(rendezvous="localhost:29400")
    monkeypatch.setenv("END", "running")
    folder = plan.run.stage("prepare")
    folder.path.mkdir()
    folder.error.write_text('{"exit_code": 4, "message": "of an earlier start"}')

    with pytest.raises(TrainingError, match=r"stage prepare: found that its processes ended"):
        run_node(plan, 0)

    assert not plan.run.stage("pretrain").path.exists()
    state, failure = read_state(folder), failure_of(folder)
    assert state is not None
    assert failure is not None
    assert (state["state"], state["attempt"]) == ("failed", 1)
    assert "distrain logs" in failure.remedy
    assert "earlier start" not in failure.error


def test_a_stage_that_was_stopped_or_interrupted_has_not_failed(make_plan, runtime, monkeypatch):
    plan = make_plan(rendezvous="localhost:29400")
    monkeypatch.setenv("END", "stopped")
    assert run_node(plan, 0) is ExitCode.STOPPED
    plan.run.stage("prepare").state.unlink()
    monkeypatch.setenv("END", "running")
    assert run_node(plan, 0, was_interrupted=lambda: True) is ExitCode.STOPPED
    assert failure_of(plan.run.stage("prepare")) is None
