"""What a stage's incidents say: ``<stage>/incidents/N``, written by whoever watched the ranks."""

from typing import Any, NotRequired, TypedDict, cast

from distrain.runs.folder import StageFolder
from distrain.runs.progress_page import STEP_PHASES
from distrain.runs.records import read_json


class RankSeen(TypedDict):
    """One rank of the node, as it was found."""

    rank: int
    pid: int
    phase: str
    step: int
    """Steps made before."""
    age_s: float
    """Since its last mark."""
    collectives: int
    waits: bool
    """For other ranks."""
    state: str
    """The letter in ``/proc``: R, S, D, T, Z."""
    line: str
    """``file:line in function``; empty if its stacks could not be seen."""
    saving: NotRequired[dict[str, Any]]
    """Where the thread that saves was: phase, step, age_s, line."""


class Incident(TypedDict):
    """``incident.json``."""

    time: str
    kind: str
    """``hang``."""
    attempt: int
    host: str
    """Of the node."""
    node: int
    rank: int
    """Whom to blame, as far as it could be told; -1: no rank of the node has begun."""
    phase: str
    step: int
    age_s: float
    limit_s: float
    why: str
    line: str
    """Of code, where that rank was."""
    action: str
    ranks: list[RankSeen]
    """Of this node."""
    others: NotRequired[list[dict[str, Any]]]
    """Of the other nodes, as far as they said in time: node, host, ranks as above."""
    number: NotRequired[int]
    """Added when it is read."""


def read_incidents(folder: StageFolder) -> list[Incident]:
    """Return the incidents of a stage, the oldest first; a folder cut short is passed over."""
    found: list[Incident] = []
    for number in numbers_of(folder):
        try:
            record = read_json(folder.incident(number))
        except (OSError, ValueError):
            continue
        if record is not None and {"rank", "phase", "step", "why"} <= record.keys():
            found.append(cast(Incident, record | {"number": number}))
    return found


def numbers_of(folder: StageFolder) -> list[int]:
    """Return which incident folders there are."""
    if not folder.incidents.is_dir():
        return []
    return sorted(int(path.name) for path in folder.incidents.iterdir() if path.name.isdigit())


def name_of(rank: int) -> str:
    """Name a rank, in words; a negative one stands for all of a node."""
    return f"rank {rank}" if rank >= 0 else "every rank"


def describe_place(phase: str, step: int) -> str:
    """Say where in a run a rank is, such as ``phase data, step 12``."""
    if phase in STEP_PHASES:
        return f"phase {phase}, step {step + 1}"
    return f"phase {phase}" + (f", after step {step}" if step else "")


def describe_incident(incident: Incident) -> str:
    """Say in one line what happened, with rank, node, phase, time and line of code."""
    place = describe_place(incident["phase"], incident["step"])
    line = f", at {incident['line']}" if incident["line"] else ""
    return (
        f"{name_of(incident['rank'])} on {incident['host']} in {place}, "
        f"{incident['age_s']:.1f} s (limit {incident['limit_s']:.1f} s){line}"
    )
