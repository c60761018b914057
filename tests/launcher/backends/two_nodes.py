"""Supervisors of two nodes on the loopback, with a runtime that only counts."""

import os
import shlex
import socket
import subprocess
import time

from distrain.config.layout import Layout
from launcher.backends.nodes import FirstNode
from launcher.backends.torchrun import commands_per_node, orders_of
from launcher.plan import Plan, StagePlan
from tests.launcher.small_run import ROOT
from tests.runtime_command import runtime_command

STAGES = (
    StagePlan("prepare", "prepare", (), 1, 1, None, None, None),
    StagePlan("pretrain", "pretrain", ("prepare",), 2, 1, 1, Layout("fsdp", 2, 1, 2), 1),
    StagePlan("export", "export", ("pretrain",), 1, 1, None, None, None),
)

# Each process says who it is. The ranks of `pretrain` wait for a file; the first one keeps the
# records. Both end as soon as one of them is gone, as ranks in a collective would.
RUNTIME = """
import json, os, sys, time
from pathlib import Path
run, name = Path(sys.argv[2]), sys.argv[3]
stage, rank = run / name, os.environ.get("RANK", "0")
stage.mkdir(exist_ok=True)
start = os.environ.get("TORCHELASTIC_RUN_ID", "")
me = stage / f"rank{rank}of{os.environ.get('WORLD_SIZE', '1')}"
me.write_text(f"{os.getpid()}\\n{start}")
state = stage / "state.json"
attempt = json.loads(state.read_text())["attempt"] + 1 if state.exists() else 1
def record(word):
    if rank == "0":
        line = {"state": word, "attempt": attempt, "step": 0, "requeue": True}
        state.with_suffix(".new").write_text(json.dumps(line))
        state.with_suffix(".new").replace(state)
record("running")
while name == "pretrain" and not (run / "go").exists():
    time.sleep(0.02)
    other = stage / f"rank{1 - int(rank)}of2"
    pid, _, theirs = (other.read_text() if other.exists() else "").partition("\\n")
    try:
        os.kill(int(pid), 0) if theirs == start else None  # else of the start before
    except ProcessLookupError:
        if not (run / "go").exists():  # else it has seen that first, and ended well
            sys.exit("the other rank is gone")
if os.environ.get("CRASH") == name:
    sys.exit("the reason is here")
record("done")
"""


class Nodes:
    """Two supervisors on the loopback."""

    def __init__(self, plan: Plan, folder, **env: str) -> None:
        self.run = plan.run
        (folder / "runtime.py").write_text(RUNTIME)
        python = runtime_command(folder / "bin", folder / "runtime.py")
        self.orders = orders_of(plan, python)
        self.orders.write(plan.run.meeting)
        self.env = os.environ | {"PYTHONPATH": str(ROOT)} | env
        self.commands = commands_per_node(plan)
        self.processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def start(self, node: int) -> subprocess.Popen[str]:
        """Start the supervisor of a node."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {self.commands[node]}"],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def hurry(self, silence_s: float, patience_s: float) -> None:
        """Let supervisors that are started from now on wait less than minutes for each other."""
        code = (
            "import sys, launcher.backends.beats as beats\n"
            f"beats.BEAT_S, beats.LOOK_S, beats.SILENCE_S = 0.1, 0.05, {silence_s}\n"
            f"import launcher.backends.nodes as nodes; nodes.PATIENCE_S = {patience_s}\n"
            "from launcher.backends.node import main; sys.exit(main())"
        )
        hurried = f"-c {shlex.quote(code)}"
        self.commands = [c.replace("-m launcher.backends.node", hurried) for c in self.commands]

    def pid_of_rank(self, rank: int) -> int:
        """Wait for a rank of the stage over two nodes."""
        path = self.run.stage("pretrain").path / f"rank{rank}of2"
        wait_until(lambda: path.exists() and path.read_text() != "")
        return int(path.read_text().splitlines()[0])

    def node_of(self, pid: int) -> int:
        """Return which supervisor a process descends from."""
        supervisors = [process.pid for process in self.processes]
        while pid not in supervisors:
            stat = open(f"/proc/{pid}/stat").read()  # noqa: PTH123, SIM115
            pid = int(stat.rpartition(")")[2].split()[1])
            assert pid > 1
        return supervisors.index(pid)


def wait_until(condition, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def first_node(plan: Plan, python: str) -> FirstNode:
    """The first node's side, in this process."""
    return FirstNode(plan.run, plan.run.meeting, orders_of(plan, python), print)
