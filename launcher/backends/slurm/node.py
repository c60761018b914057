"""The supervisor of one node of a Slurm job: ``python -m launcher.backends.slurm.node``.

srun starts one a node. They agree as the nodes of a run without a scheduler do (``nodes.py``), in a
folder of this start of the job, and need no torch. The first node replaces what failed as long as
the rule of restarts says so; all else, such as a requeue, is the batch process's (``job.py``),
which also hears Slurm's signals and judges by the stage's records. Exit codes only tell srun
whether to end the other nodes:

    0   the stage is done
    75  this start of the job makes no further attempt
    6   the first node is gone
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from distrain.errors import DistrainError, ExitCode, PreflightError
from distrain.runs.folder import NodeFiles, RunFolder
from distrain.runs.strikes import SETTINGS, StrikeRules, add_strike
from launcher.backends.beats import SILENCE_S
from launcher.backends.blame import NodeFailure, blame
from launcher.backends.interrupt import Interruptions
from launcher.backends.nodes import PATIENCE_S, FirstNode, FirstNodesProcesses
from launcher.backends.orders import Orders, StageOrders
from launcher.backends.other_node import OtherNode
from launcher.backends.restart import AttemptEnd, History, Verdict, decide
from launcher.backends.slurm.batch import START, ask_slurm, say
from launcher.backends.slurm.exclusion import Exclusion
from launcher.backends.slurm.node_checks import NODE_CHECK, become_check
from launcher.backends.slurm.past import Past
from launcher.backends.supervise import (
    Processes,
    Supervised,
    Supervisor,
    check_room,
    wait_for_end,
)


def main(argv: list[str] | None = None) -> int:
    """Supervise one node in one start of a job; returns its exit code."""
    # A signal to the whole step reaches the ranks, too; the batch process is who is asked to yield.
    with Interruptions(None) as interruptions:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("run", type=Path)
        parser.add_argument("stage")
        parser.add_argument("--processes", type=int, required=True, help="on all nodes")
        parser.add_argument("--max-restarts", type=int, required=True)
        parser.add_argument("--host", default="", help="of the first node, for the others")
        parser.add_argument("command", nargs="+")
        arguments = parser.parse_args(argv)
        if NODE_CHECK in os.environ:
            become_check(arguments.run, arguments.stage, arguments.command[0])
        run = RunFolder(arguments.run)
        meeting = run.stage(arguments.stage).meeting(os.environ[START])
        number = int(os.environ.get("SLURM_PROCID") or 0)
        try:
            if number == 0:
                return run_first_node(run, meeting, arguments, interruptions)
            # Nobody starts a first node again that is gone.
            other = OtherNode(run, meeting, number, SILENCE_S, unheard_s=PATIENCE_S)
            return other.run(interruptions)
        except DistrainError as error:
            say(str(error))
            return error.exit_code


def run_first_node(
    run: RunFolder, meeting: NodeFiles, arguments: argparse.Namespace, interruptions: Interruptions
) -> ExitCode:
    """Make attempts, with the other nodes, until this start of the job shall make no other.

    How the last one ended is left in ``start.json`` for the batch process.

    Raises:
        DistrainError: An attempt could not be started.
    """
    orders = _orders(arguments)
    orders.write(meeting)
    first = FirstNode(run, meeting, orders, say, can_return=False)
    job, _, restart = os.environ[START].rpartition(".")
    past = Past(run.stage(arguments.stage), job)

    started: list[FirstNodesProcesses] = []

    def start(_: Path) -> Processes:
        started.append(first.start(arguments.stage, None))  # its output goes to the job's log
        return started[-1]

    def rule(history: History) -> Verdict:
        if history.attempts[-1].ending in ("crashed", "lost"):
            strike(run, arguments.stage, blame(started[-1].failures, orders.nodes))
        return in_job(history)

    def follow(processes: Processes, _: int) -> None:
        wait_for_end(processes, interruptions)

    def on_restart(ended: AttemptEnd) -> None:
        past.put_down(ended, int(restart), goes_on=True)

    stage = Supervised(
        run, arguments.stage, arguments.processes, arguments.max_restarts, start, follow, say,
        on_restart,
    )  # fmt: skip
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    rules = StrikeRules.from_text(os.environ.get(SETTINGS, ""))
    exclusion = Exclusion(run, job, rules, ask_slurm)
    in_job = within_the_job(run.stage(arguments.stage).path, lambda: bool(exclusion.due(nodes)))
    supervisor = Supervisor(stage, interruptions, rule, past.attempts())
    code, last = ExitCode.STOPPED, None
    try:
        supervisor.settle()
        ended = supervisor.history.attempts[-1]
        code, last = ExitCode.DONE if ended.ending == "done" else code, asdict(ended)
    finally:
        first.end(code, last=last)
    return code


def within_the_job(
    folder: Path, has_bad_node: Callable[[], bool] = lambda: False
) -> Callable[[History], Verdict]:
    """Return the rule of restarts, but for what a job cannot do: get other nodes, or room."""

    def rule(history: History) -> Verdict:
        verdict = decide(history)
        if verdict != "again":
            return verdict
        is_lost = history.attempts[-1].ending == "lost"
        return "wait" if is_lost or not _has_room(folder) or has_bad_node() else "again"

    return rule


def strike(run: RunFolder, stage: str, failure: NodeFailure | None) -> None:
    """Hold it against a node that an attempt failed on it, if it can be told on which."""
    if failure is None:
        return
    try:
        add_strike(run, stage, failure.node, failure.kind, failure.rank, failure.how)
    except OSError as error:  # no reason not to go on
        say(f"{run.strikes} cannot be written: {error.strerror}")
        return
    who = "" if failure.rank is None else f"rank {failure.rank} on "
    say(f"{stage}: {who}{failure.node} failed first ({failure.kind}), a strike against the node")


def _has_room(folder: Path) -> bool:
    try:
        check_room(folder)
    except PreflightError:
        return False
    return True


def _orders(arguments: argparse.Namespace) -> Orders:
    nodes = int(os.environ.get("SLURM_NNODES") or 1)
    logs = str(RunFolder(arguments.run).stage(arguments.stage).rank_logs)
    command = tuple(arguments.command)
    stage = StageOrders(arguments.stage, nodes, arguments.processes, command, {}, logs)
    return Orders(nodes, arguments.max_restarts, (stage,), arguments.host)


if __name__ == "__main__":
    sys.exit(main())
