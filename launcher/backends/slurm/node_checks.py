"""Has the nodes of a job checked before its stage begins, each beside the others.

srun starts what it starts for the stage (``node.py``), which becomes the check instead if it finds
``NODE_CHECK`` set. So the check gets the site's setup, and an interpreter that has torch.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from distrain.runs.folder import StageFolder
from distrain.runs.node_checks import NodeProblem, NodeResult, judge_nodes, read_results
from launcher.text import plural

NODE_CHECK = "DISTRAIN_NODE_CHECK"
"""Environment variable: ``Meeting``, for the check of the nodes of one start."""
LIMIT_S = 180.0
"""For all of it. Above the alarm of each node's check (``distrain.fault.node_check``), which begins
once torch is imported."""
END_S = 10.0


@dataclass(frozen=True)
class Meeting:
    """Who is checked, and where they meet."""

    start: str
    nodes: Sequence[str]
    host: str
    port: int

    def to_text(self) -> str:
        """Write it for the processes of all nodes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what ``to_text`` wrote."""
        return cls(**json.loads(text))


def are_checked(folder: StageFolder, job: str, nodes: Sequence[str]) -> bool:
    """Return whether each of the nodes was checked in an earlier start of the job."""
    return all(any(folder.checks.glob(f"{job}.*/{node}.json")) for node in nodes)


def check_nodes(
    command: Sequence[str], folder: StageFolder, meeting: Meeting
) -> tuple[list[NodeProblem], str]:
    """Check all nodes of a start.

    Args:
        command: What srun starts for the stage.
        folder: Of the stage.
        meeting: Who, and where.

    Returns:
        What is wrong, and what was found, in a line for the log.
    """
    process = subprocess.Popen(command, env=os.environ | {NODE_CHECK: meeting.to_text()})
    try:
        process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # then srun ends the step
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    results = read_results(folder, meeting.start, meeting.nodes)
    return judge_nodes(results, meeting.nodes), describe_results(results, meeting.nodes)


def describe_results(results: dict[str, NodeResult], nodes: Sequence[str]) -> str:
    """Say in a line what was measured."""
    if not results:
        return "the check of the nodes did not run; the stage begins without it"
    longest_s = max(result.seconds for result in results.values())
    speeds = []
    for node, result in sorted(results.items()):
        product = max(result.products.values(), default=0.0)
        link = "" if result.link_mb_s is None else f", {result.link_mb_s:.0f} MB/s"
        speeds.append(f"{node} {product:.0f} GFLOP/s{link}")
    count = plural(len(nodes), "node")
    return f"{count} checked in {longest_s:.1f} s beside imports: {'; '.join(speeds)}"


def become_check(run: Path, stage: str, python: str) -> None:
    """Become the check of this node; does not return.

    Args:
        run: Folder of the run.
        stage: Name.
        python: Interpreter that has the runtime.
    """
    meeting = Meeting.from_text(os.environ[NODE_CHECK])
    name = os.environ.get("SLURMD_NODENAME", "")
    nodes = list(meeting.nodes)
    number = nodes.index(name) if name in nodes else int(os.environ.get("SLURM_NODEID") or 0)
    words = [python, "-m", "distrain.fault.node_check", str(run), stage, meeting.start]
    words += [f"--nodes={','.join(nodes)}", f"--number={number}"]
    words += [f"--meet={meeting.host}:{meeting.port}"]
    words += [f"--gpus={os.environ.get('SLURM_GPUS_ON_NODE') or 0}"]
    sys.stdout.flush()
    os.execvp(python, words)
