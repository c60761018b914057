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
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from distrain.errors import DistrainError, ExitCode, PreflightError
from distrain.runs.folder import NodeFiles, RunFolder
from distrain.runs.lock import is_held
from distrain.runs.records import append_event, is_done, read_state
from distrain.runs.strikes import SETTINGS, StrikeRules, add_strike, this_node
from launcher.backends.beats import SILENCE_S
from launcher.backends.blame import NodeFailure, blame
from launcher.backends.interrupt import Interruptions
from launcher.backends.member import Member
from launcher.backends.members import Standing
from launcher.backends.nodes import PATIENCE_S, FirstNode, FirstNodesProcesses
from launcher.backends.orders import Orders, StageOrders
from launcher.backends.other_node import OtherNode
from launcher.backends.restart import AttemptEnd, History, Verdict, decide
from launcher.backends.slurm.batch import POLL_S, START, address_of, ask_slurm, say
from launcher.backends.slurm.batch_process import BatchProcess
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
from launcher.backends.terms import ReplacedError

NO_SPARE = "a node was lost, and no spare is left"
LOCKED = "ranks of the first node, which is gone, hold the lock of the stage"
LOCK_S = 120.0
"""How long that is waited for: a file server keeps a dead client's locks for its lease, 90 s."""


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
        parser.add_argument("--nodes", type=int, help="that work; the others are spares")
        parser.add_argument("--grace", type=int, help="seconds before the end that it is told of")
        parser.add_argument("command", nargs="+")
        arguments = parser.parse_args(argv)
        if NODE_CHECK in os.environ:
            become_check(arguments.run, arguments.stage, arguments.command[0])
        run = RunFolder(arguments.run)
        meeting = run.stage(arguments.stage).meeting(os.environ[START])
        number = int(os.environ.get("SLURM_PROCID") or 0)
        try:
            if arguments.nodes is not None:
                return run_member(run, meeting, number, arguments, interruptions)
            if number == 0:
                return _Decider(run, meeting, arguments, interruptions).run()
            # Nobody starts a first node again that is gone.
            other = OtherNode(run, meeting, number, SILENCE_S, unheard_s=PATIENCE_S)
            return other.run(interruptions)
        except DistrainError as error:
            say(str(error))
            return error.exit_code


def run_member(
    run: RunFolder,
    meeting: NodeFiles,
    number: int,
    arguments: argparse.Namespace,
    interruptions: Interruptions,
) -> ExitCode:
    """Take part in a job that has spares, also as its first node, when that is this one's turn.

    Raises:
        DistrainError: An attempt could not be started; or this node was given up.
    """
    job = os.environ[START].rpartition(".")[0]
    log = run.stage(arguments.stage).slurm_log(f"{job}.{this_node()}")
    write_to(log)  # srun, which would pass it on, may die before this node
    orders = _orders(arguments)
    with closing(Member(run, meeting, orders, number)) as member:
        member.introduce()
        code = member.follow(interruptions)
        if code is not None:
            return code
        arguments.host = address_of(os.environ.get("SLURMD_NODENAME") or socket.gethostname())
        return _Decider(run, member.meeting, arguments, interruptions, member.standing).run()


def write_to(log: Path) -> None:
    """Have what this process and its children say go to a file."""
    sys.stdout.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for own in (1, 2):
        os.dup2(descriptor, own)
    os.close(descriptor)


class _Decider:
    """Makes attempts, with the other nodes, until this start of the job shall make no other.

    How the last one ended is left in ``start.json`` for the batch process.
    """

    def __init__(
        self,
        run: RunFolder,
        meeting: NodeFiles,
        arguments: argparse.Namespace,
        interruptions: Interruptions,
        standing: Standing | None = None,
    ) -> None:
        self._run = run
        self._stage: str = arguments.stage
        self._arguments = arguments
        self._interruptions = interruptions
        self._orders = _orders(arguments)
        self._orders.write(meeting)
        self._first = FirstNode(
            run, meeting, self._orders, say, can_return=False, standing=standing
        )
        self._standing = standing
        self._job, _, restart = os.environ[START].rpartition(".")
        self._restart = int(restart)
        self._past = Past(run.stage(self._stage), self._job)
        self._started: list[FirstNodesProcesses] = []
        rules = StrikeRules.from_text(os.environ.get(SETTINGS, ""))
        self._exclusion = Exclusion(run, self._job, rules, ask_slurm)
        self._batch = (
            None
            if standing is None
            else BatchProcess(
                run, meeting, os.environ[START], arguments.grace, ask_slurm, self._look_around
            )
        )

    def run(self) -> ExitCode:
        """Make attempts.

        Raises:
            DistrainError: One could not be started; or this node was given up.
        """
        first, code, last = self._first, ExitCode.STOPPED, None
        try:
            if self._standing is not None and self._standing.term.number > 0:
                self._take_over(self._standing.term.after)
            if is_done(self._run, self._stage):  # and the last first node could not say so
                last = AttemptEnd("done")
            elif not first.members.can_go_on():
                last = AttemptEnd("lost", how=NO_SPARE)
            elif self._is_locked():
                last = AttemptEnd("lost", how=LOCKED)
            else:
                last = self._settle()
            code = ExitCode.DONE if last.ending == "done" else code
        except ReplacedError:
            self._batch = None  # all of that is another node's now
            raise
        finally:
            try:  # a full disk must prevent neither
                if self._batch is not None:
                    self._see_to_the_end(self._batch, last)
            finally:
                first.end(code, last=None if last is None else asdict(last))
        return code

    def _settle(self) -> AttemptEnd:
        in_job = within_the_job(
            self._run.stage(self._stage).path, self._has_bad_node, self._may_replace
        )

        def rule(history: History) -> Verdict:
            self._first.require_office()
            if history.attempts[-1].ending in ("crashed", "lost"):
                failure = blame(self._started[-1].failures, self._orders.nodes)
                strike(self._run, self._stage, failure)
            return in_job(history)

        arguments = self._arguments
        stage = Supervised(
            self._run, self._stage, arguments.processes, arguments.max_restarts,
            self._start, self._follow, say, self._on_restart,
        )  # fmt: skip
        supervisor = Supervisor(stage, self._interruptions, rule, self._past.attempts())
        supervisor.settle()
        return supervisor.history.attempts[-1]

    def _start(self, _: Path) -> Processes:
        self._started.append(self._first.start(self._stage, None))  # output: to the job's log
        return self._started[-1]

    def _follow(self, processes: Processes, _: int) -> None:
        if self._batch is None:
            wait_for_end(processes, self._interruptions)
        else:
            wait_for_end(processes, self._interruptions, self._batch.stand_in)

    def _on_restart(self, ended: AttemptEnd) -> None:
        self._put_down(ended, goes_on=True)

    def _put_down(self, ended: AttemptEnd, *, goes_on: bool = False) -> None:
        try:
            self._past.put_down(ended, self._restart, goes_on=goes_on)
        except OSError as error:  # no reason to lose the restart or the requeue as well
            say(f"{self._past.path} cannot be written: {error.strerror}")

    def _look_around(self) -> None:
        """Do what is done all the time, also while Slurm is asked."""
        self._first.pulse.beat()
        self._first.require_office()

    def _is_locked(self) -> bool:
        """Whether ranks of the first node that is gone keep the lock of the stage."""
        if self._standing is None or self._standing.term.number == 0:
            return False
        lock = self._run.stage(self._stage).lock
        until = time.monotonic() + LOCK_S
        while is_held(lock) and time.monotonic() < until:
            self._look_around()
            time.sleep(POLL_S)
        return is_held(lock)

    def _has_bad_node(self) -> bool:
        members = self._first.members
        gone = {members.name(member) for member in members.gone}
        nodes = os.environ.get("SLURM_JOB_NODELIST", "")
        due = self._exclusion.due(nodes)  # with nodes of other jobs, if one of this job is due
        return bool(due) and not gone.issuperset({*due} & {*self._exclusion.expand(nodes)})

    def _may_replace(self) -> bool:
        return self._started[-1].may_go_on

    def _take_over(self, lost: int) -> None:
        """Put down that the first node was lost, with the attempt that it saw to."""
        name = self._first.members.name(lost)
        how = f"first node {name}: no sign of life"
        say(f"{self._stage}: {how}; {this_node()} takes its place")
        strike(self._run, self._stage, NodeFailure(name, "silent", how=how))
        self._on_restart(AttemptEnd("lost", how=how))
        state = read_state(self._run.stage(self._stage))
        attempt = (state["attempt"] if state else 0) + 1
        try:
            append_event(self._run.events, "restarted", self._stage, attempt=attempt, reason=how)
        except OSError as error:
            say(f"{self._run.events} cannot be written: {error.strerror}")

    def _see_to_the_end(self, batch: BatchProcess, last: AttemptEnd | None) -> None:
        """If the batch process is gone, have the job go on or end without it."""
        if not batch.is_gone(with_its_host=0 in self._first.members.gone):
            return
        self._first.require_office()
        if last is not None:
            self._put_down(last)
        say("asks Slurm to start the job again, as its batch process is gone")
        batch.end_job()


def within_the_job(
    folder: Path,
    has_bad_node: Callable[[], bool] = lambda: False,
    may_replace: Callable[[], bool] = lambda: False,
) -> Callable[[History], Verdict]:
    """Return the rule of restarts, but for what a job cannot do: get other nodes, or room.

    Args:
        folder: Of the stage.
        has_bad_node: Whether the job shall not get one of its nodes again.
        may_replace: Whether a spare takes the place of the node that was lost.
    """

    def rule(history: History) -> Verdict:
        verdict = decide(history)
        if verdict != "again":
            return verdict
        is_lost = history.attempts[-1].ending == "lost" and not may_replace()
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
    members = int(os.environ.get("SLURM_NNODES") or 1)
    nodes = members if arguments.nodes is None else arguments.nodes
    spares = None if arguments.nodes is None else members - nodes
    logs = str(RunFolder(arguments.run).stage(arguments.stage).rank_logs)
    command = tuple(arguments.command)
    stage = StageOrders(arguments.stage, nodes, arguments.processes, command, {}, logs)
    return Orders(nodes, arguments.max_restarts, (stage,), arguments.host, spares=spares)


if __name__ == "__main__":
    sys.exit(main())
