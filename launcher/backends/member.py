"""A node of a job with spares that is not the first one: it works, is in reserve, or takes over.

As ``OtherNode`` it follows the first one; in a start that has no place for it, it keeps its fork
server ready. When the first node is gone, the members agree on another one without a word: the one
with the lowest number that lives claims the next term.
"""

from typing import Any

from distrain.errors import ExitCode
from distrain.runs.folder import NodeFiles, RunFolder
from distrain.runs.records import read_json
from launcher.backends.beats import QUIET_S, SILENCE_S, SteadyPulse
from launcher.backends.interrupt import Interruptions
from launcher.backends.members import Standing, watch_members
from launcher.backends.nodes import PATIENCE_S
from launcher.backends.orders import Orders
from launcher.backends.other_node import OtherNode
from launcher.backends.roster import next_first
from launcher.backends.terms import ReplacedError, Term


class Member(OtherNode):
    """The side of any member of a job that may become its first node.

    Args:
        run: Folder of the run.
        meeting: Where the nodes of this start of the job agree.
        orders: What is started; the first node may be gone before it could write them.
        node: Its number among all nodes of the job.
    """

    def __init__(self, run: RunFolder, meeting: NodeFiles, orders: Orders, node: int) -> None:
        super().__init__(run, meeting, node, SILENCE_S, unheard_s=PATIENCE_S)
        self._pulse = SteadyPulse(meeting.beat(node))
        self._orders = orders
        self._term = Term()
        self._watches = watch_members(meeting, orders, node)
        self._is_first = node == 0
        if not self._is_first:
            self._first = self._watches[0]

    @property
    def meeting(self) -> NodeFiles:
        """Where it agrees with the others, in the present term."""
        return self._meeting

    @property
    def standing(self) -> Standing:
        """As whom it decides, once ``follow`` has returned ``None``, or from the beginning."""
        return Standing(self._term, self._starter, self._pulse, self._watches)

    def close(self) -> None:
        """Leave no process, and give no further sign of life."""
        self._starter.close()
        self._pulse.end()

    def introduce(self) -> None:
        """Say which host this is, and begin to get ready."""
        self._tell({"id": ""}, "", ended=True)
        self._starter.warm(self._orders.stages[0])

    def follow(self, interruptions: Interruptions) -> ExitCode | None:
        """Follow the first node, as long as it is another one; ``None`` once it is this one.

        Raises:
            ReplacedError: The others have given this node up.
        """
        if self._is_first:
            return None
        return self._follow(interruptions)

    def _look_around(self) -> None:
        super()._look_around()
        for watch in self._watches.values():
            watch.look()
        newest = Term.newest(self._meeting, self._term)
        if newest != self._term:
            self._term = newest
            self._meeting = self._meeting.in_term(newest.number)
            self._first = self._watches[newest.member]
        if self._node in self._given_up(read_json(self._meeting.start)):
            raise ReplacedError(self._node)

    def _given_up(self, start: dict[str, Any] | None) -> set[int]:
        return {*self._term.gone, *(start or {}).get("gone", ())}

    def _place_in(self, start: dict[str, Any]) -> int | None:
        roster = start["roster"]
        if self._node in roster:
            return int(roster.index(self._node))
        self._starter.warm(self._orders.stage(start["stage"]))  # again, if it was killed
        return None

    def _all_done(self) -> bool:
        return False  # the first node sees to the end of the job, or whoever comes after it

    def _is_alone(self) -> bool:
        """Whether the first node is gone, and this is the one that takes its place."""
        start = read_json(self._meeting.start)
        # Its own part has failed, and a first node that lives would have ended the start by now.
        waits = self._has_failed and start is not None and "over" not in start
        was_there = self._has_joined or self._first.is_heard
        limit_s = (QUIET_S if waits else self._patience_s) if was_there else self._unheard_s
        if self._first.look() <= limit_s:
            return False
        gone = {*self._given_up(start), self._term.member}
        silent_s = {self._node: 0.0}
        silent_s |= {m: watch.silent_s for m, watch in self._watches.items() if watch.is_heard}
        if next_first(silent_s, gone, limit_s) != self._node:
            return False
        roster = (start or {}).get("roster", self._term.roster)
        claimed = Term(
            self._term.number + 1, self._node, tuple(roster), sorted(gone), self._term.member
        )
        if not claimed.claim(self._meeting):
            return False  # another one was faster, and is followed from now on
        self._term, self._is_first = claimed, True
        return True

    def _go_alone(self, start: dict[str, Any] | None) -> None:
        self._meeting = self._meeting.in_term(self._term.number)
