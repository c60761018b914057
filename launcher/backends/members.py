"""The nodes of a job with spares, as its first one sees them: who has which place, who is gone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distrain.runs.folder import NodeFiles
from distrain.runs.records import read_json
from launcher.backends.beats import LOOK_S, Pulse, Watch
from launcher.backends.orders import Orders
from launcher.backends.roster import fill_places, replaced
from launcher.backends.starting import NodeStarter
from launcher.backends.terms import Term


@dataclass(frozen=True)
class Standing:
    """What a node brings along when it becomes the first one, or is it from the beginning."""

    term: Term
    starter: NodeStarter
    pulse: Pulse
    watches: Mapping[int, Watch]
    """Of all other members."""


class Members:
    """Who takes part.

    Args:
        meeting: Where the nodes agree.
        orders: What is started.
        standing: Of the first node.
    """

    def __init__(self, meeting: NodeFiles, orders: Orders, standing: Standing) -> None:
        self.first = standing.term.member
        self.roster = tuple(standing.term.roster) or tuple(range(orders.nodes))
        self.gone = set(standing.term.gone)
        self._meeting = meeting
        self._watches = standing.watches

    def others(self, nodes: int) -> list[int]:
        """Return who fills the places of a stage but that of the first node."""
        return list(self.roster[1:nodes])

    def give_up(self, members: Iterable[int]) -> None:
        """Count members as gone, for good: should they come back, they find that, and end."""
        self.gone |= set(members)

    def can_go_on(self) -> bool:
        """Return whether those that live are enough for a start."""
        return self._next() is not None

    def fill(self) -> list[tuple[int, int]]:
        """Fill the places of those that are gone; return who left, and who came for it.

        Raises:
            ValueError: Too few nodes live; ask ``can_go_on``.
        """
        before, after = self.roster, self._next()
        if after is None:
            raise ValueError(f"members {sorted(self.gone)} are gone of {sorted(self._watches)}")
        self.roster = after
        return replaced(before, after)

    def silent_spares(self, limit_s: float) -> list[int]:
        """Give up those in reserve that are silent for so long, and return them."""
        lost = [
            member
            for member, watch in self._watches.items()
            if member not in self.roster
            and member not in self.gone
            and watch.look() > limit_s
            and watch.is_heard
        ]
        self.give_up(lost)
        return lost

    def name(self, member: int) -> str:
        """Return the name of a member's host."""
        return name_of_member(self._meeting, member)

    def _next(self) -> tuple[int, ...] | None:
        for watch in self._watches.values():
            watch.look()  # a sign may have come while the first node waited for another one
        # Those first that were heard last: one that has just died is not known to be gone yet.
        spares = sorted(
            (member for member in self._watches if member not in self.roster),
            key=lambda member: (round(self._watches[member].silent_s / 10), member),
        )
        # One that never came cannot take a place; those that have one are waited for.
        never = {member for member in spares if not self._watches[member].is_heard}
        living = {self.first, *self._watches} - self.gone - never
        return fill_places(self.roster, living, self.first, spares)


def name_of_member(meeting: NodeFiles, member: int) -> str:
    """Return the name of a member's host, as it says; its number before it has said anything."""
    word = read_json(meeting.word(member))
    return str(member) if word is None else str(word["node"])


def watch_members(meeting: NodeFiles, orders: Orders, own: int) -> dict[int, Watch]:
    """Begin to watch all members but ``own``."""
    most_s = None if orders.spares is None else 2 * LOOK_S
    others = (member for member in orders.members if member != own)
    return {member: Watch(meeting.beat(member), most_s) for member in others}
