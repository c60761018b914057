"""Training over two nodes of a real Slurm: bit for bit the local run, whatever happens to it."""

import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from distrain.runs.folder import RunFolder
from launcher.backends.slurm.backend import recorded_jobs
from tests.cluster.real_slurm import PATIENCE_S, Cluster, wait_until
from tests.runs.processes import ranks_of
from tests.tiny import distrain, events, exact_records, tensor_digests, write_recipe

pytestmark = pytest.mark.slurm

STEPS = 60
SAVE_STEPS = 5
TWO_NODES = (
    "launch.backend=slurm",
    "launch.nodes=2",
    "launch.processes_per_node=1",
    "launch.node_checks=off",  # each starts torch once more on every node
)
PRETRAINING = ("prepare", "pretrain")
TRAINING = (*PRETRAINING, "sft")


class SlurmRun:
    """The tiny recipe on two nodes, one process each."""

    def __init__(
        self,
        cluster: Cluster,
        recipe: Path,
        runs: Path,
        *overrides: str,
        stages: Sequence[str] = PRETRAINING,
    ) -> None:
        self.cluster = cluster
        self.root = runs / "tiny"
        submitted = distrain(runs, "submit", str(recipe), *TWO_NODES, *only(stages), *overrides)
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        self.jobs = recorded_jobs(RunFolder(self.root))
        self.job = self.jobs["pretrain"]

    @property
    def log(self) -> str:
        folder = RunFolder(self.root).stage("pretrain").logs
        return "".join(path.read_text() for path in folder.glob("slurm-*.log"))

    @property
    def node_lists(self) -> list[str]:
        """Nodes of each start."""
        return re.findall(r"stage pretrain, job \d+, restart \d+, nodes (\S+)", self.log)

    def reach(self, step: int) -> None:
        """Wait until a step was made and one before it saved."""
        metrics = self.root / "pretrain" / "metrics.jsonl"
        wanted = f'"train/global_step": {step},'
        wait_until(lambda: metrics.exists() and wanted in metrics.read_text())

    def finish(self, patience_s: float = PATIENCE_S) -> None:
        """Wait for the end, which must be a good one."""
        for job in self.jobs.values():
            assert self.cluster.ended(job, patience_s).state == "COMPLETED", self.log

    def processes(self) -> dict[psutil.Process, dict[str, str]]:
        """Return the job's processes with their environments."""
        found = {}
        for process in psutil.process_iter():
            try:
                env = process.environ()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if env.get("SLURM_JOB_ID") == self.job:
                found[process] = env
        return found

    def ranks(self) -> dict[str, psutil.Process]:
        """Return its training processes, one a node, by the node."""
        found = self.processes()
        return {found[rank]["SLURMD_NODENAME"]: rank for rank in ranks_of(list(found))}

    def supervisor(self, node: str) -> psutil.Process:
        """Return what srun started on a node."""
        (found,) = (
            process
            for process, env in self.processes().items()
            if env.get("SLURMD_NODENAME") == node
            and "launcher.backends.slurm.node" in process.cmdline()[:3]
        )
        return found

    def reasons(self) -> list[str]:
        """Why it was started again, each time."""
        return [str(e["reason"]) for e in events(self.root, "restarted")]

    def has_strikes(self, count: int) -> bool:
        """Whether so many strikes were put down against nodes."""
        return len(events(self.root, "strike")) == count

    def assert_equal_to(self, twin: Path, stage: str = "pretrain") -> None:
        assert exact_records(self.root, stage) == exact_records(twin, stage)
        assert tensor_digests(self.root, stage) == tensor_digests(twin, stage)

    def assert_resumed(self) -> None:
        """Check that Slurm started it again, and that it then went on where it was."""
        info = self.cluster.job(self.job)
        assert info.restarts >= 1
        assert f"restart {info.restarts}, nodes" in self.log  # SLURM_RESTART_COUNT in the job
        assert "restarted" in [event["event"] for event in events(self.root)]
        resumed = [int(str(event["step"])) for event in events(self.root, "resumed")]
        assert max(resumed) >= SAVE_STEPS


def only(stages: Sequence[str]) -> list[str]:
    """Return the flags that choose ``stages``."""
    return [word for stage in stages for word in ("--only", stage)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("recipe"), processes=2, steps=STEPS)


@pytest.fixture(scope="module")
def twin(recipe):
    """The same recipe, undisturbed on this machine with two processes."""
    runs = recipe.parent / "runs"
    finished = distrain(runs, "run", str(recipe), *only(TRAINING))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return runs / "tiny"


def test_two_nodes_train_bit_for_bit_as_two_local_processes(cluster, recipe, twin, tmp_path):
    run = SlurmRun(cluster, recipe, tmp_path, "launch.node_checks=auto", stages=TRAINING)
    run.finish()
    assert "2 nodes checked in" in run.log
    assert events(run.root, "node_unfit") == []
    assert run.node_lists == ["node[1-2]"]
    assert run.reasons() == [], "nothing is started again where nothing fails"
    for stage in ("pretrain", "sft"):
        run.assert_equal_to(twin, stage)


def test_a_dead_rank_is_replaced_within_the_job_and_a_dead_supervisor_by_a_requeue(
    cluster, recipe, twin, tmp_path
):
    run = SlurmRun(cluster, recipe, tmp_path)
    run.reach(2 * SAVE_STEPS)
    first = run.ranks()
    first["node2"].kill()
    wait_until(lambda: len(events(run.root, "resumed")) == 1)
    second = run.ranks()
    assert set(second) == {"node1", "node2"}
    assert not set(second.values()) & set(first.values()), "both are new"
    # The other node's rank ends a moment later, for it has lost its peer. Which of the two ends the
    # first node sees first is a matter of moments.
    ends = (["node 1: rank 1: killed by SIGKILL"], ["rank 0: exit code 1"])
    assert run.reasons() in ends
    run.reach(6 * SAVE_STEPS)
    assert cluster.job(run.job).restarts == 0
    run.supervisor("node2").kill()
    run.finish()
    assert len(run.node_lists) == 2
    assert len(run.reasons()) == 2
    run.assert_resumed()
    run.assert_equal_to(twin)


def test_a_rank_that_stands_still_is_named_and_replaced_within_the_job(
    cluster, recipe, twin, tmp_path
):
    run = SlurmRun(cluster, recipe, tmp_path)
    run.reach(2 * SAVE_STEPS)
    run.ranks()["node2"].send_signal(signal.SIGSTOP)
    wait_until(lambda: bool(events(run.root, "hung")))
    run.finish()
    # Both nodes see a rank that goes on no more; whoever is first names the one that is stopped.
    hung = events(run.root, "hung")[0]
    assert (hung["stage"], hung["rank"]) == ("pretrain", 1)
    assert "it is stopped (state T)" in str(hung["why"])
    assert len(run.node_lists) == 1, "the job itself was started once"
    assert len(events(run.root, "resumed")) >= 1
    run.assert_equal_to(twin)


def test_a_dead_node_is_replaced_and_the_run_ends_as_if_it_had_lived(
    cluster, recipe, twin, tmp_path
):
    run = SlurmRun(cluster, recipe, tmp_path)
    run.reach(2 * SAVE_STEPS)
    cluster.crash("node2")
    run.finish()
    assert run.node_lists[0] == "node[1-2]"
    second_start = cluster.slurm("scontrol", "show", "hostnames", run.node_lists[-1]).split()
    assert len(second_start) == 2
    assert "node2" not in second_start
    run.assert_resumed()
    run.assert_equal_to(twin)


def test_a_node_on_which_it_fails_twice_is_left_and_the_run_ends_elsewhere_as_its_twin(
    cluster, recipe, twin, tmp_path
):
    run = SlurmRun(cluster, recipe, tmp_path)
    for failures in (1, 2):
        run.reach(2 * SAVE_STEPS * failures)
        run.ranks()["node2"].kill()
        wait_until(partial(run.has_strikes, failures))
    # Strikes are the rank's that was killed, not of its peer, which ends a moment later.
    strikes = [(e["node"], e["kind"], e["rank"]) for e in events(run.root, "strike")]
    assert strikes == [("node2", "gone", 1)] * 2
    wait_until(lambda: bool(events(run.root, "nodes_excluded")))
    info = cluster.slurm("scontrol", "show", "job", "--oneliner", run.job)
    assert " ExcNodeList=node2 " in info
    run.finish()
    assert [len(run.node_lists), run.node_lists[0]] == [2, "node[1-2]"]
    assert "node2" not in cluster.slurm("scontrol", "show", "hostnames", run.node_lists[1]).split()
    status = distrain(tmp_path, "status", str(run.root)).stdout
    assert "node node2: 2 strikes" in status
    assert f"job {run.job} gets no more of node2" in status
    run.assert_resumed()
    run.assert_equal_to(twin)


def test_a_node_that_does_not_pass_its_check_is_left_before_the_stage_begins(
    cluster, recipe, twin, tmp_path, monkeypatch
):
    site = tmp_path / "site.yaml"
    shared = tmp_path / "strikes"
    shared.mkdir()
    # Node 1 has a core that computes wrong: whatever it multiplies.
    folder = Path(__file__).with_name("bad_core")
    site.write_text(f"strikes: {shared}\nenv:\n  PYTHONPATH: {folder}\n")
    settings = (f"launch.site={site}", "launch.node_checks=on")
    run = SlurmRun(cluster, recipe, tmp_path, *settings)
    run.finish()
    unfit = events(run.root, "node_unfit")
    assert [(e["stage"], e["node"]) for e in unfit] == [("prepare", "node1"), ("pretrain", "node1")]
    assert "matrix products in float32 on cpu wrong" in str(unfit[0]["found"])
    assert [e["nodes"] for e in events(run.root, "nodes_excluded")] == ["node1", "node1"]
    assert [one.name.split(".")[0] for one in shared.iterdir()] == ["tiny"]
    run.assert_equal_to(twin)


def test_a_time_limit_in_the_middle_changes_nothing(cluster, recipe, twin, tmp_path):
    # Starts that are not there after a minute are in vain; this test is about those that are.
    limit = ("launch.time_limit=2m", "launch.grace_period=1m", "launch.max_restarts=20")
    # Ranks are held below for longer than any step takes, which counts as a hang.
    unwatched = "launch.watchdog.enabled=false"
    run = SlurmRun(cluster, recipe, tmp_path, *limit, unwatched)
    run.reach(2 * SAVE_STEPS)
    # Slurm looks at limits twice a minute: hold the ranks until it has, then let them answer.
    ranks = run.ranks()
    for rank in ranks.values():
        rank.send_signal(signal.SIGSTOP)
    *_, start = re.finditer(r"stage pretrain, job \d+, restart", run.log)
    try:
        # Of this start: one that was slow was asked before it had made its steps.
        wait_until(lambda: "asked to yield" in run.log[start.start() :])
    finally:
        for rank in ranks.values():
            with suppress(psutil.NoSuchProcess):  # the reason is what the wait above raises
                rank.send_signal(signal.SIGCONT)
    run.finish()
    assert "yielded; asks Slurm to start it again" in run.log
    run.assert_resumed()
    run.assert_equal_to(twin)
