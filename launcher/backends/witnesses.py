"""How several nodes tell of one halt: one of them finds it, the others add where their ranks were.

Whoever finds a halt makes the incident's folder first. The others look for such a folder about once
a second, and leave the stacks of their ranks in it, while those still wait; then the finder says
which rank of all is to blame, and acts. A rank that waits in a collective of the device looks as
one that works, so the node that is late first need not be the one whose rank stands still.
"""

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from distrain.runs.durable import write_file
from distrain.runs.incidents import Incident, RankSeen, describe_place, name_of, numbers_of
from distrain.runs.progress_page import PHASES, STEP_PHASES
from distrain.runs.records import read_json, write_json
from launcher.backends.incidents import (
    WatchedStage,
    collect_stacks,
    describe_halt,
    look_closer,
    run_bounded,
    seen_of,
    write_incident,
)
from launcher.backends.watchdog import Halt, Situation

VISIT_S = 1.0
"""Between two looks into the run's folder, which may be on a slow file system."""
WITNESSES_S = 3.0
"""How long the others may take to say where their ranks are."""
CLAIM_S = 2.0
LATE_SHARE = 0.5
"""Of the limit that was passed: another node's rank with a younger mark than that is well."""


class Witness:
    """One node's part in the incidents of an attempt over several.

    Args:
        place: Of the stage.
        pages: Their folder.
    """

    def __init__(self, place: WatchedStage, pages: Path) -> None:
        self._place = place
        self._pages = pages
        self._before = set(numbers_of(place.folder)) if place.nodes > 1 else set()
        self._known = set(self._before)
        self._looked_s = 0.0

    def look(self, situation: Situation) -> None:
        """Add to incidents that another node has found since the start, once to each."""
        if self._place.nodes == 1 or time.monotonic() - self._looked_s < VISIT_S:
            return
        self._looked_s = time.monotonic()
        with suppress(OSError):  # the file system may be what hangs: then there is less to see
            for number in numbers_of(self._place.folder):
                if number not in self._known:
                    self._known.add(number)
                    self._add(number, situation)

    def put_down(self, halt: Halt, situation: Situation) -> str:
        """Tell of a halt that this node has found, together with the others.

        Returns:
            What has happened, in words.
        """
        place, taken = self._place, list[int]()
        run_bounded(lambda: self._claim(taken), CLAIM_S)
        if not taken:
            # Another node was first, or the run's folder does not answer.
            run_bounded(lambda: self._follow(situation), CLAIM_S + WITNESSES_S)
            return describe_halt(halt)
        incident = look_closer(place, halt, situation, self._pages)
        others: list[dict[str, Any]] = []
        run_bounded(
            lambda: others.extend(read_witnesses(place, taken[0], WITNESSES_S)), 2 * WITNESSES_S
        )
        own = (incident["node"], incident["rank"])
        incident = blame(incident, others)
        write_incident(place, incident, self._pages, taken[0])
        is_own = own == (incident["node"], incident["rank"])
        return describe_halt(halt) if is_own else describe_found(incident)

    def _claim(self, taken: list[int]) -> None:
        numbers = set(numbers_of(self._place.folder))
        if numbers - self._before:
            return  # one incident for one attempt, whoever was first
        number = max(numbers, default=0) + 1
        self._place.folder.incident(number).parent.mkdir(parents=True)  # or another node does
        self._known.add(number)
        taken.append(number)

    def _follow(self, situation: Situation) -> None:
        self._looked_s = 0.0
        self.look(situation)
        time.sleep(VISIT_S)  # the finder may be about to look at the ranks that are killed next

    def _add(self, number: int, situation: Situation) -> None:
        ranks = situation.pages
        stacks = collect_stacks(ranks, self._pages)
        folder = self._place.folder.incident(number).parent
        for path in sorted(self._pages.glob("[0-9]*")):
            write_file(folder / path.name, path.read_bytes())
        record = {
            "node": self._place.node,
            "host": socket.gethostname(),
            "ranks": [seen_of(page, situation, stacks.get(page.rank, [])) for page in ranks],
        }
        # Last: it says that the others are there.
        write_json(witness_file(self._place, number, self._place.node), record)


def witness_file(place: WatchedStage, number: int, node: int) -> Path:
    """Return where a node that has not found an incident says where its ranks were."""
    return place.folder.incident(number).with_name(f"node-{node}.json")


def read_witnesses(place: WatchedStage, number: int, patience_s: float) -> list[dict[str, Any]]:
    """Wait for what all other nodes have to say of an incident, and return what came."""
    files = [witness_file(place, number, node) for node in range(place.nodes) if node != place.node]
    deadline = time.monotonic() + patience_s
    while not all(file.exists() for file in files) and time.monotonic() < deadline:
        time.sleep(0.1)
    found = (read_json(file) for file in files)
    return [record for record in found if record is not None]


def blame(incident: Incident, others: Sequence[dict[str, Any]]) -> Incident:
    """Add what the other nodes saw, and name the rank of all nodes that keeps the rest waiting."""
    whole: Incident = {**incident, "others": list(others)}
    late_s = LATE_SHARE * incident["limit_s"]
    found = [(incident["node"], incident["host"], seen) for seen in incident["ranks"]]
    found = [each for each in found if each[2]["rank"] == incident["rank"]]
    found += [
        (record["node"], record["host"], seen)
        for record in others
        for seen in record["ranks"]
        if seen["age_s"] > late_s
    ]
    node, host, seen = min(found, key=lambda each: _order(each[2]))
    if seen["rank"] == incident["rank"]:
        return whole
    stopped = "it is stopped (state T); " if seen["state"] in ("T", "t") else ""
    waiting = f"{name_of(incident['rank'])} on node {incident['node']} waits for it"
    return {
        **whole,
        "node": node,
        "host": host,
        "rank": seen["rank"],
        "phase": seen["phase"],
        "step": seen["step"],
        "age_s": seen["age_s"],
        "line": seen["line"],
        "why": f"{stopped}{incident['why'].removeprefix('it is stopped (state T); ')}; {waiting}",
    }


def _order(seen: RankSeen) -> tuple[Any, ...]:
    """As among the ranks of one node: first who is likelier to be the cause than to wait for it."""
    phase = seen["phase"]
    place = (seen["step"], PHASES.index(phase) if phase in STEP_PHASES else 0)
    is_stopped = seen["state"] in ("T", "t")
    return (not is_stopped, seen["waits"], place, seen["collectives"], -seen["age_s"], seen["rank"])


def describe_found(incident: Incident) -> str:
    """Say how an attempt ended, in words, where another node's rank is to blame."""
    return (
        f"hung: {name_of(incident['rank'])} on {incident['host']} in "
        f"{describe_place(incident['phase'], incident['step'])}, {incident['age_s']:.1f} s "
        f"(limit {incident['limit_s']:.1f} s); {incident['why']}"
    )
