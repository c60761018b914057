"""Which nodes a job shall not get again: over the limit of strikes, and how Slurm is told.

Slurm takes a list of nodes to leave out only for a job that waits. So the job goes back into the
queue first, and is told right after; its own supervisor has some seconds for that, until it is
killed with its old start. If it comes too late, or Slurm requeued the job by itself, the next start
finds itself on such a node, and goes back before it has begun.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from distrain.runs.folder import RunFolder
from distrain.runs.strikes import StrikeRules, choose_excluded, count_strikes
from launcher.backends.slurm.client import Answer

Ask = Callable[[Sequence[str]], Answer]

UNUSABLE = re.compile(r"down|drain|drng|fail|maint|inval|unk|no_resp|pow_dn|power|resv|boot")
"""In the state of a node that gives no job a place now."""
TELL_S = 4.0
"""How long Slurm is told; less than the seconds that it leaves a start after a requeue."""
PAUSE_S = 0.3


class Exclusion:
    """The nodes of one job, and what is held against them.

    Args:
        run: Folder of the run.
        job: Id.
        rules: Of strikes.
        ask: Asks Slurm; a command that fails has an answer, too.
    """

    def __init__(self, run: RunFolder, job: str, rules: StrikeRules, ask: Ask) -> None:
        self._run = run
        self._job = job
        self._rules = rules
        self._ask = ask

    def due(self, nodes: str, more: Collection[str] = ()) -> list[str]:
        """Return which nodes the job shall not get again; none, if no node of this start is one.

        Args:
            nodes: Of the start, in Slurm's short form.
            more: Those that shall be left whatever their strikes.
        """
        strikes = count_strikes(self._run, self._rules) if self._rules.limit else Counter[str]()
        limit = self._rules.limit or 1
        for node in more:
            strikes[node] += limit
        if not any(count >= limit for count in strikes.values()):
            return []  # and nobody is asked
        here = self.expand(nodes)
        chosen = choose_excluded(strikes, limit, self._usable() | set(here), len(here))
        return chosen if any(node in here for node in chosen) else []

    def tell(self, nodes: Collection[str]) -> str:
        """Have the job, which waits, never get these nodes; return what Slurm said against it.

        Those that were left out before stay so.
        """
        before = self.expand(self._field("ExcNodeList"))
        wanted = ",".join(sorted({*before, *nodes}))
        deadline = time.monotonic() + TELL_S
        while True:
            answer = self._ask(
                ["scontrol", "update", f"JobId={self._job}", f"ExcNodeList={wanted}"]
            )
            if answer.code == 0 or time.monotonic() > deadline:
                return "" if answer.code == 0 else " ".join(answer.err.split())
            time.sleep(PAUSE_S)

    def _usable(self) -> set[str]:
        partition = self._field("Partition")
        which = [f"--partition={partition}"] if partition else []
        answer = self._ask(["sinfo", "--noheader", "--Node", *which, "--format=%N|%T"])
        lines = (line.split("|") for line in answer.out.splitlines() if "|" in line)
        left_out = set(self.expand(self._field("ExcNodeList")))
        return {
            node.strip()
            for node, state in lines
            if not UNUSABLE.search(state.lower()) and not state.strip().endswith("*")
        } - left_out

    def expand(self, nodes: str) -> list[str]:
        """Return names from Slurm's short form."""
        if not re.search(r"[\[,]", nodes):
            return [nodes] if nodes else []
        return self._ask(["scontrol", "show", "hostnames", nodes]).out.split()

    def _field(self, name: str) -> str:
        answer = self._ask(["scontrol", "show", "job", "--oneliner", self._job])
        found = re.search(rf"\s{name}=(\S*)", answer.out)
        return "" if found is None or found[1] == "(null)" else found[1]
