"""What was drawn so far: a file, so that a scorecard goes on where it was ended."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from distrain.runs.durable import write_text


@dataclass
class Tally:
    """What came of one case."""

    drawn: int = 0
    passed: int = 0
    """Those of runs that ended as their twin, and in which nothing was that must not be."""
    lost_s: list[float] = field(default_factory=list)
    """From a fault to the first step of the next attempt, where no other fault came between."""
    found_s: list[float] = field(default_factory=list)
    """How old the last mark was when the watchdog acted, of each incident."""
    starts_s: list[float] = field(default_factory=list)
    """From the command to the first step, in the same runs."""
    load: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class State:
    """The file of all cases; written after every run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.tallies = {number: Tally(**value) for number, value in known.items()}

    def of(self, number: str) -> Tally:
        """Return the tally of a case."""
        return self.tallies.setdefault(number, Tally())

    def save(self) -> Self:
        """Write it down."""
        write_text(self._path, json.dumps({n: asdict(t) for n, t in self.tallies.items()}))
        return self
