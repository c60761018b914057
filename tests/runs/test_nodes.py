"""Training over two nodes without a scheduler: two supervisors on the loopback, real ranks."""

import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.records import read_json
from tests.runs.processes import kill, ranks_of
from tests.tiny import (
    command,
    distrain,
    environment,
    events,
    exact_records,
    tensor_digests,
    write_recipe,
)

pytestmark = pytest.mark.seams

STEPS = 60
ONLY = ("--only", "prepare", "--only", "pretrain")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("recipe"), processes=2, steps=STEPS)


@pytest.fixture(scope="module")
def twin(recipe):
    """The same recipe, undisturbed on one node."""
    runs = recipe.parent / "runs"
    finished = distrain(runs, "run", str(recipe), *ONLY)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return runs / "tiny"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


class TwoNodes:
    """`distrain run` as the first node, and as the second what it told to type there."""

    def __init__(self, recipe: Path, runs: Path, **env: str) -> None:
        self.run = RunFolder(runs / "tiny")
        self.log = runs / "nodes.log"
        runs.mkdir(exist_ok=True)
        pretrain = ("launch.backend=torchrun", "launch.nodes=2", "launch.processes_per_node=1")
        words = ("run", str(recipe), *pretrain, f"launch.rendezvous=localhost:{free_port()}", *ONLY)
        with self.log.open("w") as log:
            self.first = subprocess.Popen(
                command(*words), env=environment(runs) | env, stdout=subprocess.PIPE, stderr=log,
                text=True,
            )  # fmt: skip
            assert self.first.stdout is not None
            assert self.first.stdout.readline() == "# type this on node 1\n"
            typed = self.first.stdout.readline()
            self.second = subprocess.Popen(
                ["bash", "-c", f"exec {typed}"], env=environment(runs) | env, stdout=log, stderr=log
            )
        self.pids = {"first": self.first.pid, "second": self.second.pid}

    def reach(self, step: int) -> None:
        """Wait until a step was made."""
        wanted = f'"train/global_step": {step},'
        metrics = self.run.stage("pretrain").metrics
        while not (metrics.exists() and wanted in metrics.read_text()):
            assert self.first.poll() is None, self.log.read_text()

    def processes(self, node: str, *, ranks: bool) -> list[psutil.Process]:
        """Return the ranks on a node, or what started them."""
        below = psutil.Process(self.pids[node]).children(recursive=True)
        forked = ranks_of(below)
        return forked if ranks else [p for p in below if p not in forked]

    def close(self) -> None:
        """Leave no supervisor behind, and so none of its processes."""
        for pid in self.pids.values():
            if psutil.pid_exists(pid):
                kill([psutil.Process(pid)])

    def finish(self) -> None:
        assert self.first.wait(240) == 0, self.log.read_text()
        assert self.second.wait(60) == 0, self.log.read_text()


@pytest.mark.parametrize(
    ("node", "ranks"),
    [("second", True), ("second", False), ("first", True), ("first", False)],
    ids=["second node's rank", "second node's server", "first node's rank", "its server"],
)
def test_what_is_killed_on_a_node_is_replaced_and_the_run_ends_as_its_twin(
    recipe, twin, tmp_path, node, ranks
):
    nodes = TwoNodes(recipe, tmp_path / "runs")
    try:
        nodes.reach(12)
        first = read_json(nodes.run.meeting.start)
        victims = nodes.processes(node, ranks=ranks)
        assert victims
        kill(victims)
        nodes.finish()
    finally:
        nodes.close()
    last = read_json(nodes.run.meeting.start)
    assert first is not None
    assert last is not None
    assert (last["number"], last["end"]) == (first["number"] + 1, 0)
    assert last["id"] != first["id"]
    resumed = [int(str(event["step"])) for event in events(nodes.run.root, "resumed")]
    assert resumed
    assert max(resumed) >= 5
    assert exact_records(nodes.run.root, "pretrain") == exact_records(twin, "pretrain")
    assert tensor_digests(nodes.run.root, "pretrain") == tensor_digests(twin, "pretrain")


def test_a_signal_to_the_second_node_saves_and_stops_all(recipe, twin, tmp_path):
    nodes = TwoNodes(recipe, tmp_path / "runs")
    try:
        nodes.reach(3)
        nodes.second.send_signal(signal.SIGTERM)
        assert nodes.first.wait(120) == 75, nodes.log.read_text()
        assert nodes.second.wait(60) == 75
    finally:
        nodes.close()
