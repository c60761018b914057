"""Which rank keeps the others waiting: the one that waits least while they do.

All ranks come out of a collective together, so how long each waited in a step is how much earlier
than the last one it was there. Ranks bring their share of the last step to the next step's first
collective, which there is anyway; rank 0 judges.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distrain.parallel.collectives import HostGroup
from distrain.parallel.waits import waits
from distrain.runs.strikes import this_node

STEPS = 20
MOST_OF = 19
"""Steps of these in which the same node, or rank of the only one, must have waited least."""
GAP = 0.2
"""Share of a step, on average over them, by which the others must have waited longer. Rank 0 writes
records, and so always waits a little less."""
PASSED = 2
"""First steps of an attempt, which compile and allocate."""


@dataclass(frozen=True)
class Straggler:
    """A rank for which the others wait."""

    rank: int
    node: str
    waits: float
    """Share of a step, on average, that it waited itself."""
    others_wait: float
    """The same of the median of the others."""


def watch_ranks(host: HostGroup) -> "Stragglers | None":
    """Begin to count this rank's waits; ``None``: it has nobody to wait for. Collective."""
    if host.world_size == 1:
        return None
    waits.begin()
    return Stragglers([str(node) for node in host.gather(this_node())])


class Stragglers:
    """Judges the last ``STEPS`` steps.

    Args:
        nodes: Name of each rank's node. Where there are several, a node is as late as the last of
            its ranks; on one node each rank counts for itself.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        names = list(dict.fromkeys(nodes))
        ranks = range(len(nodes))
        self._nodes = nodes
        self._groups = (
            [[rank for rank in ranks if nodes[rank] == name] for name in names]
            if len(names) > 1
            else [[rank] for rank in ranks]
        )
        self._window: deque[NDArray[np.float64]] = deque(maxlen=STEPS)
        """Shares of a step, by rank."""
        self._latest: deque[int] = deque(maxlen=STEPS)
        """Which group waited least in it."""
        self._left_out = PASSED
        self._named: int | None = None

    def note(self, shares: Sequence[float]) -> Straggler | None:
        """Take in a step; return who is late now, if that is news.

        Args:
            shares: By rank, of the step that it waited; NaN: not measured.
        """
        step = np.array(shares)
        if len(self._groups) < 2 or np.isnan(step).any():
            return None
        if self._left_out:
            self._left_out -= 1
            return None
        self._window.append(step)
        self._latest.append(int(np.argmin([step[group].min() for group in self._groups])))
        if len(self._window) < STEPS:
            return None
        late, times = Counter(self._latest).most_common(1)[0]
        if self._named is not None and self._gap(self._named) < GAP / 2:
            self._named = None
        if late == self._named or times < MOST_OF or self._gap(late) < GAP:
            return None
        self._named = late
        return self._describe(late)

    def _gap(self, group: int) -> float:
        """By how much the others wait longer: as share of a step, on average."""
        own = np.stack(self._window)[:, self._groups[group]].min(axis=1)
        return float((self._of_others(group) - own).mean())

    def _of_others(self, group: int) -> NDArray[np.float64]:
        """Return for each step what the median of the other groups waits."""
        steps = np.stack(self._window)
        others = [ranks for number, ranks in enumerate(self._groups) if number != group]
        waits_of = [steps[:, ranks].min(axis=1) for ranks in others]
        medians: NDArray[np.float64] = np.median(waits_of, axis=0)
        return medians

    def _describe(self, group: int) -> Straggler:
        means = np.stack(self._window).mean(axis=0)
        rank = min(self._groups[group], key=lambda one: means[one])
        others = float(self._of_others(group).mean())
        return Straggler(rank, self._nodes[rank], round(float(means[rank]), 3), round(others, 3))
