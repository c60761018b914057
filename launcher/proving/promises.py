"""What must follow a fault, by its kind: an equal end says nothing of the way there. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HANGS = frozenset({"hang", "lock", "spin", "sleep"})
LAST_STEPS = 5
"""Of a stage: a fault that comes there may find a rank that has its work behind it."""


@dataclass(frozen=True)
class Promise:
    """What follows.

    Args:
        restarts: Another attempt, or none.
        event: A kind of event that tells what was found; empty: none is asked for.
        words: For that.
    """

    restarts: bool = True
    event: str = ""
    words: str = ""


FOUND = Promise(event="hung", words="an incident that names it")
PROMISES: Mapping[str, Promise] = {
    **dict.fromkeys(HANGS, FOUND),
    "corrupt": Promise(event="quarantined", words="a checkpoint put aside"),
    "slow": Promise(restarts=False),
}
"""By the kind of fault; of all others, that the stage begins again. That an incident comes only
where there was a hang is counted for all of them (``StageRound``)."""


def unkept(
    kind: str,
    what: str,
    attempts: tuple[int, int],
    events: Sequence[Mapping[str, Any]],
    *,
    is_alone: bool = True,
) -> list[str]:
    """Return what should have followed a fault and did not, or did and should not.

    Args:
        kind: Of the fault.
        what: It has struck, in words; of one rank, ``rank N`` is how they begin.
        attempts: Under way when it came, and when the next fault came, or at the end.
        events: Of the stage, in between.
        is_alone: Whether no other fault came before this one was over, so that they are its own.
    """
    promise = PROMISES.get(kind, Promise())
    before, after = attempts
    if promise.restarts and after <= before:
        return ["another attempt"]
    if not is_alone:
        return []
    if not promise.restarts and after > before:
        return [f"no other attempt than {before}"]
    if promise.event and not any(
        event["event"] == promise.event and (promise is not FOUND or _names(event, what))
        for event in events
    ):
        return [promise.words]
    return []


def _names(incident: Mapping[str, Any], what: str) -> bool:
    return what.startswith(f"rank {incident['rank']} ")
