"""The nodes of one start of a job: which of them it leaves, and how it comes to know."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import takewhile
from shutil import rmtree

from distrain.errors import DistrainError, PreflightError
from distrain.runs.folder import RunFolder
from distrain.runs.node_checks import NodeProblem
from distrain.runs.records import append_event
from distrain.runs.strikes import StrikeRules, add_strike, share_strikes
from launcher.backends.restart import AttemptEnd
from launcher.backends.slurm.batch import BatchJob, ask_slurm
from launcher.backends.slurm.exclusion import Exclusion
from launcher.backends.slurm.node_checks import Meeting, are_checked, check_nodes

FIRST_PORT, PORTS = 10000, 10000
"""Where nodes meet for their check; not where ranks do, which may come right after."""
LEFT = "left nodes that are not fit:"
"""Begins how a start ended that did not begin; see ``MOST_LEAVES``."""
MOST_LEAVES = 2
"""In a row: then Slurm gives such nodes whatever it is told, and they are taken."""


class OwnNodes:
    """The nodes of this start.

    Args:
        batch: The start.
        rules: Of strikes.
    """

    def __init__(self, batch: BatchJob, rules: StrikeRules) -> None:
        self._batch = batch
        self._rules = rules
        self._exclusion = Exclusion(batch.run, batch.id, rules, ask_slurm)

    def due(self, unfit: Collection[str] = ()) -> list[str]:
        """Return which nodes the job shall not get again, if one of them is here.

        Args:
            unfit: Nodes that are left whatever their strikes.
        """
        self.share_strikes()
        return self._exclusion.due(self._batch.nodes, unfit)

    def share_strikes(self) -> None:
        """Let the other runs of the site know of this one's strikes."""
        with suppress(OSError):  # theirs are no reason to end this one
            share_strikes(self._batch.run, self._rules)

    def leave(self, unfit: Collection[str] = ()) -> bool:
        """Go back into the queue without having begun, if this start got a node that is left out.

        As when Slurm requeued the job by itself, or the run was submitted anew.
        """
        batch, bad = self._batch, self.due(unfit)
        how = f"{LEFT} {', '.join(bad)}"
        in_vain = takewhile(
            lambda attempt: attempt.how.startswith(LEFT), reversed(batch.past.attempts())
        )
        if not bad or len(list(in_vain)) >= MOST_LEAVES:
            return False
        batch.history = batch.history.then(AttemptEnd("lost", how=how))
        if not batch.requeue(how, " elsewhere"):
            return False  # better on these than not at all
        self.exclude(bad)
        return True

    def exclude(self, nodes: Sequence[str]) -> None:
        """Have Slurm give the job, which waits by now, no such nodes."""
        batch = self._batch
        if not nodes:
            return
        refused = self._exclusion.tell(nodes)
        names = ", ".join(nodes)
        if refused:
            batch.say(f"Slurm may give the job {names} again: {refused}")
            return
        batch.say(f"this job gets no more of {names}")
        with suppress(OSError):
            append_event(batch.run.events, "nodes_excluded", batch.stage, job=batch.id, nodes=names)

    def check(self, host: str, again: str) -> bool:
        """Check the nodes, once for each; go back into the queue if one is not fit.

        Args:
            host: Where they meet.
            again: What a user types to go on.

        Raises:
            PreflightError: One is so unfit that work there would come to nothing, and Slurm has no
                other; or the disk has no room for the checkpoints to come.
        """
        batch = self._batch
        nodes = self._exclusion.expand(batch.nodes)
        if batch.restart == 0:  # a cluster that was set up anew gives the same numbers again
            for old in batch.folder.checks.glob(f"{batch.id}.*"):
                rmtree(old, ignore_errors=True)
        if are_checked(batch.folder, batch.id, nodes):
            return False
        lack = lacking_room(batch.run)
        if lack is not None:
            raise lack
        port = FIRST_PORT + int(batch.id.partition("_")[0]) % PORTS
        meeting = Meeting(f"{batch.id}.{batch.restart}", nodes, host, port)
        problems, found = check_nodes(batch.command, batch.folder, meeting)
        batch.say(found)
        for problem in problems:
            self._note(problem)
        if problems and self.leave({problem.node for problem in problems}):
            return True
        grave = next((problem for problem in problems if problem.is_grave), None)
        if grave is not None:  # else it is slow, or in doubt, and there is no other
            remedy = f"{grave.remedy} When Slurm has another node: {again}."
            raise PreflightError(f"node {grave.node}", grave.found, grave.expected, remedy)
        return False

    def _note(self, problem: NodeProblem) -> None:
        batch = self._batch
        batch.say(str(problem))
        with suppress(OSError):
            if problem.is_its_own:
                add_strike(batch.run, batch.stage, problem.node, "check", None, problem.found)
            append_event(
                batch.run.events,
                "node_unfit",
                batch.stage,
                job=batch.id,
                node=problem.node,
                found=problem.found,
                expected=problem.expected,
                remedy=problem.remedy,
            )


def lacking_room(run: RunFolder) -> DistrainError | None:
    """Return why the checkpoints still to be written do not fit on the disk; ``None`` if they do.

    It was asked when the run was submitted, but the job may have waited for days.
    """
    if not run.resolved.exists():
        return None
    # Half a second, for a job that trains.
    from distrain.config.reading.load import read_resolved
    from launcher.preflight import missing_space

    return next(missing_space(read_resolved(run.resolved), run.root), None)
