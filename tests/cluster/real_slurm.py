"""Drives the cluster of ``slurm-cluster.sh`` and a run on it."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.runs.folder import RunFolder
from launcher.backends.slurm.client import JobInfo, Slurm
from tests.runtime_command import runtime_command

SCRIPT = Path(__file__).with_name("slurm-cluster.sh")
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Cluster:
    """Four nodes, ``node1`` to ``node4``."""

    folder: Path

    def do(self, *arguments: str) -> str:
        """Run a command of ``slurm-cluster.sh``."""
        # Not captured by pipes: the daemons would hold them open.
        output = self.folder / "slurm-cluster.out"
        with output.open("w") as file:
            done = subprocess.run(
                [SCRIPT, *arguments],
                env={
                    **os.environ,
                    "CLUSTER_DIR": str(self.folder),
                    "CLUSTER_OWNER": str(os.getpid()),  # killed, pytest leaves no cluster behind
                },
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
        assert done.returncode == 0, output.read_text()
        return output.read_text()

    def crash(self, node: str) -> None:
        """Kill everything that runs on a node, at once."""
        self.do("crash", node)

    def restore(self) -> None:
        """Bring dead nodes back and wait until all four are free."""
        jobs = self.slurm("squeue", "-h", "-o", "%A").split()
        Slurm().cancel(jobs)
        alive = self.do("status")
        for node in ("node1", "node2", "node3", "node4"):
            if not any(
                line.split()[0] == node and line.split()[1].isdigit() for line in alive.splitlines()
            ):
                self.do("start", node)
        wait_until(lambda: self.slurm("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 4)

    def slurm(self, *argv: str) -> str:
        """Run one of Slurm's own commands."""
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def job(self, job: str) -> JobInfo:
        """Return what Slurm says about a job."""
        return Slurm().job_states([job])[job]

    def ended(self, job: str, patience_s: float = PATIENCE_S) -> JobInfo:
        """Wait until a job is over."""
        wait_until(lambda: not self.job(job).is_live, patience_s)
        return self.job(job)


@dataclass(frozen=True)
class StandInRun:
    """A run whose stages are counted by ``stand_in.py``."""

    folder: RunFolder
    launch: LaunchConfig
    site: SiteConfig

    def behave(self, stage: str, **behaviour: object) -> None:
        """Say what the stage shall do."""
        path = self.folder.root / f"{stage}.behaviour.json"
        path.write_text(json.dumps(behaviour))

    def trace(self, stage: str) -> list[dict[str, Any]]:
        """Return the steps that were made, in their order."""
        path = self.folder.root / f"{stage}.trace"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def log(self, stage: str) -> str:
        """Return what the stage's jobs wrote."""
        return "".join(p.read_text() for p in self.folder.stage(stage).logs.glob("slurm-*.log"))

    def reached(self, stage: str, step: int) -> None:
        """Wait until the stage has made a step."""
        wait_until(lambda: any(line["step"] >= step for line in self.trace(stage)))


def install_runtime(folder: Path, source: str) -> str:
    """Make an interpreter whose runtime is a file of this folder."""
    return runtime_command(folder, Path(__file__).with_name(source))


def wait_until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for something that Slurm or a job does on its own time.

    Raises:
        TimeoutError: It did not happen.
    """
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience_s} s in vain")
        time.sleep(0.2)
