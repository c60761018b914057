"""What the check of a job's nodes found (``<stage>/checks``), and which nodes are not fit. Pure.

Values are judged by what they must be, speeds beside those of the other nodes of the same job: no
figure of a machine is written down anywhere. See ``distrain.fault.node_check`` for the measures.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Self

from distrain.runs.folder import StageFolder
from distrain.runs.records import read_json

SLOW_PRODUCT, SLOW_LINK = 0.5, 0.25
"""Of the median of the other nodes; a link is shared with other jobs, a core is not."""
CLOCK_S = 5.0
"""Off the others. Munge and TLS bear minutes; records of two nodes can be put in order below it."""
OPEN_FILES = 4096
"""Each mapped shard holds two or three."""


@dataclass
class NodeResult:
    """What was measured on one node. Speeds are the best of several tries."""

    node: str
    seconds: float = 0.0
    """That its check took, imports and the wait for the others left out."""
    products: dict[str, float] = field(default_factory=dict)
    """By device and dtype: GFLOP/s."""
    wrong: list[str] = field(default_factory=list)
    """What came out otherwise than it must, in words."""
    doubts: list[str] = field(default_factory=list)
    """Nodes whose data came here otherwise than they were sent or written."""
    link_mb_s: float | None = None
    """To the faster of its two neighbors; ``None``: not measured."""
    all_reduce_mb_s: float | None = None
    """Of all nodes together."""
    disk_mb_s: float | None = None
    """Written to the run's folder and synced."""
    clock_s: float | None = None
    """Ahead of the first node's, as far as one exchange tells."""
    open_files: int | None = None
    """That a process may have at most."""
    absent: list[str] = field(default_factory=list)
    """Nodes that did not come to meet the others; said by the first node."""

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """Take a record, also one of another version."""
        known = cls.__dataclass_fields__
        return cls(**{name: value for name, value in record.items() if name in known})


@dataclass(frozen=True)
class NodeProblem:
    """Why a node is not fit."""

    node: str
    found: str
    expected: str
    remedy: str
    is_grave: bool
    """Whether work there would come to nothing; else it would only be slow, or in doubt."""
    is_its_own: bool = True
    """Whether it is held against the node; else it may be another's fault, or the network's."""

    def __str__(self) -> str:
        return f"node {self.node}: found {self.found}; expected {self.expected}. {self.remedy}"


def read_results(folder: StageFolder, start: str, nodes: Sequence[str]) -> dict[str, NodeResult]:
    """Return what was found on those of the nodes that say so, by node."""
    found = {node: read_json(folder.check(start, node)) for node in nodes}
    return {node: NodeResult.read(result) for node, result in found.items() if result is not None}


def judge_nodes(results: Mapping[str, NodeResult], nodes: Sequence[str]) -> list[NodeProblem]:
    """Return what is wrong with nodes, the grave first; nothing where no node has a result.

    Then it was the check itself that could not run.
    """
    if not results:
        return []
    problems = list(_missing(results, nodes))
    for judge in (_wrong, _doubtful, _slow_products, _slow_links, _clocks, _open_files):
        problems += judge(list(results.values()))
    return sorted(problems, key=lambda problem: not problem.is_grave)


def _missing(results: Mapping[str, NodeResult], nodes: Sequence[str]) -> Iterator[NodeProblem]:
    absent = {name for result in results.values() for name in result.absent}
    remedy = "Look at the job's log and at the node's network."
    for node in nodes:
        if node not in results:
            expected = "a result beside those of the others"
            yield NodeProblem(node, "no result of its check", expected, remedy, True)
        elif node in absent:
            # It works alone. It may have imported for longer than the others waited, or the fault
            # is the first node's, which alone says who is missing.
            found, expected = "that it did not meet the other nodes", "that all meet"
            yield NodeProblem(node, found, expected, remedy, False, is_its_own=False)


def _wrong(results: Sequence[NodeResult]) -> Iterator[NodeProblem]:
    for result in results:
        for found in result.wrong:
            remedy = "Have the node drained and its hardware looked at."
            yield NodeProblem(result.node, found, "what was put in", remedy, True)


def _doubtful(results: Sequence[NodeResult]) -> Iterator[NodeProblem]:
    """Blame who takes part in most exchanges that went wrong; of a single one, both ends."""
    counts: Counter[str] = Counter()
    for result in results:
        for other in result.doubts:
            counts.update((result.node, other))
    for node, count in sorted(counts.items()):
        if count == max(counts.values()):
            found = f"{count} exchanges of data with its neighbors that came out otherwise"
            remedy = "Have its network interface and memory looked at."
            yield NodeProblem(node, found, "what was sent", remedy, True)


def _slow_products(results: Sequence[NodeResult]) -> Iterator[NodeProblem]:
    remedy = "Look for other work on the node, its clock frequency and its cooling."
    for kind in sorted({kind for result in results for kind in result.products}):

        def speed(result: NodeResult, kind: str = kind) -> float | None:
            return result.products.get(kind)

        unit = f"GFLOP/s of matrix products ({kind})"
        yield from _slow(results, speed, SLOW_PRODUCT, unit, remedy, 1)


def _slow_links(results: Sequence[NodeResult]) -> Iterator[NodeProblem]:
    # Of two nodes nobody could say at which end it is slow.
    remedy = "Look at the node's network interface and cables."
    yield from _slow(results, lambda r: r.link_mb_s, SLOW_LINK, "MB/s to its neighbors", remedy, 2)


def _slow(
    results: Sequence[NodeResult],
    speed_of: Callable[[NodeResult], float | None],
    share: float,
    unit: str,
    remedy: str,
    least_others: int,
) -> Iterator[NodeProblem]:
    speeds = {r.node: speed for r in results if (speed := speed_of(r)) is not None}
    for node, speed in speeds.items():
        others = [other for name, other in speeds.items() if name != node]
        if len(others) >= least_others and speed < share * median(others):
            expected = f"at least {share:.0%} of the others' {median(others):.4g}"
            yield NodeProblem(node, f"{speed:.4g} {unit}", expected, remedy, False)


def _clocks(results: Sequence[NodeResult]) -> Iterator[NodeProblem]:
    clocks = {r.node: r.clock_s for r in results if r.clock_s is not None}
    for node, clock_s in clocks.items():
        others = [other for name, other in clocks.items() if name != node]
        if len(others) >= 2 and abs(clock_s - median(others)) > CLOCK_S:
            found = f"a clock that is {clock_s - median(others):+.1f} s off the others'"
            remedy = "Have its time service repaired."
            yield NodeProblem(node, found, f"at most {CLOCK_S:.0f} s", remedy, False)


def _open_files(results: Sequence[NodeResult]) -> Iterator[NodeProblem]:
    for result in results:
        if result.open_files is not None and result.open_files < OPEN_FILES:
            found = f"at most {result.open_files} open files for a process"
            remedy = "Raise the hard limit (`ulimit -Hn`) there."
            yield NodeProblem(result.node, found, f"{OPEN_FILES} or more", remedy, False)
