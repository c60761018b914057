"""The verdict: one stage of two runs, one of which was disturbed, compared to the bit. Pure.

Records hold losses and norms as the shortest text that gives the same bits again, so what reads
equal is equal.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from distrain.runs.folder import StageFolder
from distrain.runs.json_lines import read_records
from distrain.runs.products import CHECKPOINT_FIELD
from distrain.runs.records import STEP, is_validation, read_json, read_state
from distrain.runs.skips import digest, read_skips

OF_THE_ATTEMPT = frozenset({"time", "attempt"})
OF_THE_MACHINE = ("perf/", "memory/")
"""What a record says of when and where it was made: nothing that must be equal."""
RANKS, SECONDS = "ranks", "seconds"
"""Of ``result.json``: how many there were at the end, and what it took them."""
MOST_SHOWN = 5
Key = tuple[int, bool]
"""Step, and whether it is a validation's."""


@dataclass(frozen=True)
class Exactness:
    """How equal two stages must be.

    Args:
        relative: By how much figures may differ; 0: not in a bit.
        same_ranks: Whether both had as many ranks: else sums were taken in another order, and only
            what is counted must be equal, not the digests of tensors.
        first_step: Records of earlier steps are not compared.
        last_step: Nor are those of later steps; ``None``: up to the end.
    """

    relative: float = 0.0
    same_ranks: bool = True
    first_step: int = 0
    last_step: int | None = None

    def are_equal(self, ours: object, twins: object) -> bool:
        """Compare two figures, or anything else that a record holds."""
        if isinstance(ours, Mapping) and isinstance(twins, Mapping):
            return ours.keys() == twins.keys() and all(
                self.are_equal(ours[key], twins[key]) for key in ours
            )
        if self.relative and isinstance(ours, float) and isinstance(twins, float):
            return math.isclose(ours, twins, rel_tol=self.relative)
        return ours == twins

    def covers(self, step: int) -> bool:
        """Return whether the records of a step are compared."""
        return self.first_step <= step and (self.last_step is None or step <= self.last_step)


BITWISE = Exactness()


def compare_stage(
    ours: StageFolder, twin: StageFolder, exactness: Exactness = BITWISE
) -> list[str]:
    """Say what differs between a stage and its twin, both of which are to be done.

    Compared are, step by step, every figure of the records that does not tell of time or machine
    (losses, norms, rates, samples read, hashes of batches, what was applied and why not,
    validations), the decisions on steps left out, and the result with the digests of all tensors
    and the ledger of samples.

    Returns:
        Differences in words, the first ones of each kind; empty: there is none.
    """
    unfinished = [
        f"{folder.path}: the stage is {_state_of(folder)}, not done"
        for folder in (ours, twin)
        if _state_of(folder) != "done"
    ]
    if unfinished:
        return unfinished
    return [
        *compare_records(ours, twin, exactness),
        *compare_skips(ours, twin),
        *compare_results(read_json(ours.result) or {}, read_json(twin.result) or {}, exactness),
    ]


def compare_records(
    ours: StageFolder, twin: StageFolder, exactness: Exactness = BITWISE
) -> list[str]:
    """Say in which steps and validations the records of two stages differ."""
    mine, its = _figures(ours, exactness), _figures(twin, exactness)
    found = [
        *_shown([f"{_name(key)} has no record" for key in sorted(its.keys() - mine.keys())]),
        *_shown([f"{_name(key)} has a record, the twin none" for key in mine.keys() - its.keys()]),
    ]
    different = []
    for key in sorted(mine.keys() & its.keys()):
        for name in sorted(mine[key].keys() | its[key].keys()):
            here, there = mine[key].get(name), its[key].get(name)
            if not exactness.are_equal(here, there):
                different.append(f"{_name(key)}: {name} is {here}, of the twin {there}")
    return [*found, *_shown(different)]


def compare_skips(ours: StageFolder, twin: StageFolder) -> list[str]:
    """Say whether the two left out other steps."""
    mine, its = read_skips(ours), read_skips(twin)
    if digest(mine) == digest(its):
        return []
    windows = [[f"{s.first_step} to {s.last_step}" for s in skips] for skips in (mine, its)]
    return [
        f"steps left out: {'; '.join(windows[0]) or 'none'}, "
        f"of the twin {'; '.join(windows[1]) or 'none'}, or for other reasons"
    ]


def compare_results(
    ours: Mapping[str, Any], twins: Mapping[str, Any], exactness: Exactness = BITWISE
) -> list[str]:
    """Say what differs between two results: digests of the final tensors, figures, samples."""
    found = []
    for name in sorted((ours.keys() | twins.keys()) - {SECONDS}):
        here, there = ours.get(name), twins.get(name)
        if not exactness.same_ranks:
            if name == RANKS:
                continue
            here, there = _without_digests(name, here), _without_digests(name, there)
        if not exactness.are_equal(here, there):
            found.append(f"result: {name} is {here}, of the twin {there}")
    return found


def _without_digests(name: str, value: object) -> object:
    """Leave of what names a checkpoint only its step."""
    if name == CHECKPOINT_FIELD and isinstance(value, Mapping):
        return value.get("step")
    return value


def _figures(folder: StageFolder, exactness: Exactness) -> dict[Key, dict[str, Any]]:
    """Return what each step's last record says; a step made again has replaced the one before."""
    return {
        (int(record[STEP]), is_validation(record)): _without(
            record, lambda name: name in OF_THE_ATTEMPT or name.startswith(OF_THE_MACHINE)
        )
        for record in read_records(folder.metrics)
        if exactness.covers(int(record[STEP]))
    }


def _without(record: Mapping[str, Any], is_left_out: Callable[[str], bool]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if not is_left_out(name)}


def _state_of(folder: StageFolder) -> str:
    state = read_state(folder)
    return state["state"] if state else "not begun"


def _name(key: Key) -> str:
    step, is_of_validation = key
    return f"validation after step {step}" if is_of_validation else f"step {step}"


def _shown(lines: Iterable[str]) -> list[str]:
    """Return the first of many lines, and how many more there are."""
    found = list(lines)
    more = len(found) - MOST_SHOWN
    return [*found[:MOST_SHOWN], *([f"and {more} more such differences"] if more > 0 else [])]
