"""Which node of a job with spares does what: its places in a start, and who decides. Pure.

The scheduler numbers all nodes of a job once, those in reserve too: these are its *members*. A
start has as many *places* as the stage has nodes, numbered from 0, and a roster says which member
has each. Ranks follow from places, and what is trained follows from ranks, so who has a place
changes nothing in it. Place 0 is that of the first node, which decides, and holds the ranks' store.
"""

from collections.abc import Collection, Mapping, Sequence


def fill_places(
    before: Sequence[int], living: Collection[int], first: int, spares: Sequence[int]
) -> tuple[int, ...] | None:
    """Return the roster of the next start; ``None`` if there are too few nodes.

    Whoever lives keeps its place, but for the node that becomes the first one: then it is its old
    place that a spare takes.

    Args:
        before: The roster of the last start.
        living: Members that can take part.
        first: The member that decides, one of them.
        spares: Members without a place, those first that are to be taken first.
    """
    wanted = [first, *(member for member in before[1:])]
    kept = [
        member if place == 0 or (member in living and member != first) else None
        for place, member in enumerate(wanted)
    ]
    free = [member for member in spares if member in living and member not in kept]
    if kept.count(None) > len(free):
        return None
    return tuple(free.pop(0) if member is None else member for member in kept)


def next_first(silent_s: Mapping[int, float], gone: Collection[int], limit_s: float) -> int | None:
    """Return the member that takes the place of a first node that is gone; ``None``: nobody lives.

    It is the one with the lowest number. Nodes may see it differently for a moment; who was really
    the first to act, ``terms`` decides.

    Args:
        silent_s: How long each member has given no sign of life, as a node sees it.
        gone: Members that were given up, with the first one.
        limit_s: From so long on, a member counts as gone.
    """
    return min(
        (member for member, s in silent_s.items() if s <= limit_s and member not in gone),
        default=None,
    )


def replaced(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
    """Return who left the roster and who came for it, as pairs of members."""
    left = [member for member in before if member not in after]
    came = [member for member in after if member not in before]
    return list(zip(left, came, strict=True))
