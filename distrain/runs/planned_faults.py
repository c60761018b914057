"""Faults that ranks bring upon themselves because a file says so; for ``distrain chaos``.

A line a fault, only ever appended to, also while ranks run. Where a fault happens follows from its
step alone: one that changes what is computed happens each time that step is computed, and so in an
undisturbed twin as well; all others happen once, whoever trains, and change no result.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from distrain.runs.json_lines import read_records

FaultKind = Literal["nan", "spike", "exception", "exit", "lock", "spin", "sleep"]
"""``nan``: loss and gradients of one rank are no numbers. ``spike``: those of all ranks are a
thousand times as large. ``exception``: is raised. ``exit``: the process ends with code 0. ``lock``:
stands still and holds the interpreter's lock. ``spin``: is busy for ever. ``sleep``: is not."""
CHANGES_RESULTS = frozenset({"nan", "spike"})
EVERY_RANK, LAST_RANK = -2, -1


@dataclass(frozen=True)
class PlannedFault:
    """One fault."""

    number: int
    """Of its line, from 1: names what tells that it has happened."""
    kind: FaultKind
    stage: str
    step: int
    """From 1. A fault that happens once may come later: no step after it passes without it."""
    rank: int = LAST_RANK
    """Or ``EVERY_RANK``."""
    again: bool = False
    """Of one that would happen once: happen in each attempt, as what no restart mends."""

    @property
    def changes_results(self) -> bool:
        """Whether a twin must have it as well."""
        return self.kind in CHANGES_RESULTS

    def happens_to(self, rank: int, world_size: int) -> bool:
        """Return whether it is this rank that has the fault."""
        return self.rank in (rank, EVERY_RANK) or (
            self.rank == LAST_RANK and rank == world_size - 1
        )


def append_fault(path: Path, fault: PlannedFault) -> None:
    """Add a fault; ranks that run see it before their next step."""
    line = json.dumps(asdict(fault)) + "\n"
    with path.open("ab") as stream:
        stream.write(line.encode())  # in one call: a reader sees the whole line or none


def read_faults(path: Path, stage: str) -> list[PlannedFault]:
    """Return the faults of a stage."""
    faults = (PlannedFault(**record) for record in read_records(path))
    return [fault for fault in faults if fault.stage == stage]


def happened(path: Path, fault: PlannedFault) -> Path:
    """Return the file that is there once a fault has happened that happens once."""
    return path.with_name(f"{path.name}.{fault.number}")


def claim(path: Path, fault: PlannedFault) -> bool:
    """Tell whether a fault that happens once has not happened yet; from now on it has."""
    try:
        os.close(os.open(happened(path, fault), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    return True
