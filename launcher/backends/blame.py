"""Which node an attempt failed on: of all that failed, the one that did so first.

When one rank ends, all others fail within moments, on every node; and no clocks are compared. What
tells them apart is how each ended: ranks that meet the end of another one say so in their pages,
with their last breath, and one that was killed says nothing. So the gravest word counts, and where
two nodes have the same, nobody is blamed: a recipe that fails on every rank is no node's fault.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from distrain.runs.progress_page import Page
from distrain.runs.strikes import this_node

FailureKind = Literal["hung", "gone", "raised", "ended", "silent", "met", "refused"]
GRAVITY: tuple[FailureKind, ...] = ("hung", "gone", "raised", "ended", "silent")
"""Gravest first. ``gone``: a rank ended without a word, as a killed one does. ``ended``: no rank
had a page yet, so nobody knows how. ``silent``: of a node without signs of life. Nobody is blamed
for ``met`` (another rank was gone) and ``refused`` (it would fail anywhere)."""
ALONE: tuple[FailureKind, ...] = ("hung", "gone")
"""What is held against the only node of a job."""
SETTLE_S = 1.5
"""After the first end on a node: later ones are the work of whoever started the ranks."""


@dataclass(frozen=True)
class NodeFailure:
    """How an attempt failed on one node."""

    node: str
    """Name, as the scheduler has it."""
    kind: FailureKind
    rank: int | None = None
    how: str = ""
    """In words."""


class FirstFailure:
    """Finds out which rank of this node fails first, while whoever started them looks on."""

    def __init__(self) -> None:
        self.found: NodeFailure | None = None
        self._until = float("inf")

    def look(self, pages: Iterable[Page], ended: Sequence[int]) -> None:
        """Take in which ranks have ended, and what they said.

        Args:
            pages: Of this node.
            ended: Ranks whose processes are no more.
        """
        if time.monotonic() > self._until:
            return
        failed = [
            NodeFailure(this_node(), _kind_of(page), page.rank)
            for page in pages
            if page.rank in ended and (page.failure or page.main.phase != "ended")
        ]
        if failed:
            self._until = min(self._until, time.monotonic() + SETTLE_S)
            self.found = min(failed, key=_gravity)

    def halt(self, failure: NodeFailure) -> None:
        """Take in that a rank stands still, which goes before all else."""
        self.found = failure
        self.end()

    def end(self) -> None:
        """Take in nothing more: the ranks are killed now."""
        self._until = float("-inf")


def blame(failures: Iterable[NodeFailure], nodes: int) -> NodeFailure | None:
    """Return the failure of the one node that is to blame; ``None``: it cannot be told.

    Args:
        failures: Of an attempt, one a node on which it failed.
        nodes: How many took part.
    """
    # Without another node to compare with, what a rank says of itself is as well the recipe's.
    counted = GRAVITY if nodes > 1 else ALONE
    grave = sorted((one for one in failures if one.kind in counted), key=_gravity)
    if not grave:
        return None
    gravest = {one.node for one in grave if one.kind == grave[0].kind}
    return grave[0] if len(gravest) == 1 else None


def _kind_of(page: Page) -> FailureKind:
    kinds: dict[str, FailureKind] = {"refused": "refused", "raised": "raised", "met": "met"}
    return kinds.get(page.failure, "gone")


def _gravity(failure: NodeFailure) -> int:
    return GRAVITY.index(failure.kind) if failure.kind in GRAVITY else len(GRAVITY)
