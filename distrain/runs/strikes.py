"""``strikes.jsonl``: on which nodes a run failed, and which of them it shall not get again.

A node gets a strike when one of its ranks failed first, or stood still, or when it did not pass its
check. Strikes of a run lie in its folder; where a site names a folder for them, a copy of each
run's lies there, too, so that one run's bad node is no other's surprise.
"""

import hashlib
import json
import os
import socket
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from distrain.runs import durable
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import append_event, utc_now

SETTINGS = "DISTRAIN_STRIKES"
"""Environment variable: ``StrikeRules`` for supervisors of nodes."""
FORGET_DAYS = 7
"""Somebody will have looked at a node by then."""
NOT_SHARED = "raised"
"""An error of the rank's own: out of memory or a row that nobody expected is as well the run's."""


@dataclass(frozen=True)
class StrikeRules:
    """What counts, and where else strikes are kept."""

    limit: int = 2
    """Strikes of a node from which on it is left out; 0: none is."""
    folder: str | None = None
    """Of the site: strikes of all its runs."""

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what ``to_text`` wrote; of nothing, the defaults."""
        return cls(**json.loads(text)) if text else cls()

    def to_text(self) -> str:
        """Write it for another process."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Strike:
    """One failure that is held against a node."""

    time: str
    node: str
    """Name, as the scheduler has it."""
    kind: str
    """``hung``, ``gone``, ``raised``, ``ended``, ``silent`` (``launcher.backends.blame``), or
    ``check``: it did not pass its check."""
    stage: str
    rank: int | None
    how: str
    """In words."""


def this_node() -> str:
    """Return the name of this node, as the scheduler has it if there is one."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def add_strike(
    run: RunFolder, stage: str, node: str, kind: str, rank: int | None, how: str
) -> Strike:
    """Put down a strike, durably, and its event. By one process at a time.

    Raises:
        OSError: It could not be written.
    """
    strike = Strike(utc_now(), node, kind, stage, rank, how)
    durable.append_line(run.strikes, json.dumps(asdict(strike)))
    append_event(run.events, "strike", stage, node=node, kind=kind, rank=rank, how=how)
    return strike


def share_strikes(run: RunFolder, rules: StrikeRules) -> None:
    """Copy the strikes of a run to the site's folder, but for what may be the run's own fault.

    Raises:
        OSError: They could not be read or written.
    """
    if rules.folder is None:
        return
    shared = [one for one in read_strikes(run.strikes) if one.kind != NOT_SHARED]
    if shared:
        lines = (json.dumps(asdict(strike)) + "\n" for strike in shared)
        # A file a run, so that no two runs ever write to the same one.
        durable.write_text(Path(rules.folder, shared_name(run)), "".join(lines))


def shared_name(run: RunFolder) -> str:
    """Return the name of a run's file in the site's folder: others may have a run of that name."""
    place = hashlib.blake2b(str(run.root.resolve()).encode(), digest_size=4).hexdigest()
    return f"{run.root.name}.{place}.jsonl"


def count_strikes(run: RunFolder, rules: StrikeRules, now: datetime | None = None) -> Counter[str]:
    """Count the strikes against each node that are not forgotten.

    All of the run's own, and one of each other run of the site: a recipe that fails wherever it
    runs may hold much against a node that did nothing.
    """
    oldest = (now or datetime.now(UTC)) - timedelta(days=FORGET_DAYS)
    counts = Counter(strike.node for strike in read_strikes(run.strikes, oldest))
    if rules.folder is not None:
        for path in sorted(Path(rules.folder).glob("*.jsonl")):
            if path.name != shared_name(run):
                counts.update({strike.node for strike in read_strikes(path, oldest)})
    return counts


def read_strikes(path: Path, oldest: datetime | None = None) -> Iterator[Strike]:
    """Yield the strikes of a file, the oldest first; what is none is passed over."""
    with suppress(OSError):  # of another user's run: not readable, or just gone
        for record in read_records(path):
            strike = _parse(record)
            if strike is not None and (oldest is None or _time_of(strike) >= oldest):
                yield strike


def choose_excluded(
    strikes: Mapping[str, int], limit: int, usable: Collection[str], needed: int
) -> list[str]:
    """Say which nodes a job shall not get; the worst first, never so many that it gets too few.

    Args:
        strikes: Against each node.
        limit: From so many on; 0: none is left out.
        usable: Nodes that Slurm might give to the job, those at work for others too.
        needed: How many it takes.
    """
    over = [node for node in usable if limit and strikes.get(node, 0) >= limit]
    worst_first = sorted(over, key=lambda node: (-strikes[node], node))
    return worst_first[: max(len(usable) - needed, 0)]


def _parse(record: Mapping[str, Any]) -> Strike | None:
    try:
        strike = Strike(**record)
        _time_of(strike)
    except (TypeError, ValueError, AttributeError):
        return None
    return strike


def _time_of(strike: Strike) -> datetime:
    return datetime.fromisoformat(strike.time.replace("Z", "+00:00"))


def describe_strikes(strikes: Iterable[Strike]) -> list[str]:
    """Say of each node how many strikes it has, and of what the last one was."""
    by_node: dict[str, list[Strike]] = {}
    for strike in strikes:
        by_node.setdefault(strike.node, []).append(strike)
    lines = []
    for node, of in sorted(by_node.items()):
        rank = "" if of[-1].rank is None else f", rank {of[-1].rank}"
        count = "1 strike" if len(of) == 1 else f"{len(of)} strikes"
        lines.append(f"node {node}: {count}, the last: {of[-1].kind}{rank} ({of[-1].how})")
    return lines


def describe_straggler(event: Mapping[str, Any]) -> str:
    """Say of an event ``straggler`` for whom the others waited, and how long."""
    shares = (100 * float(event.get(name) or 0) for name in ("others_wait", "waits"))
    others, own = (f"{share:.0f} %" for share in shares)
    return (
        f"at step {event.get('step')} the others waited {others} of the time for rank "
        f"{event.get('rank')} on {event.get('node')}, which waited {own}"
    )
