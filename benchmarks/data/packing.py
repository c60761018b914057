"""Best-fit packing: documents planned per CPU-second, and the share of positions left empty.

    python -m benchmarks.data.packing [--documents 1_000_000]

Beside it, the same algorithm document by document, with a segment tree over the space left in bins,
as the paper describes it. Document lengths are log-normal.
"""

import argparse
import statistics
import sys

import numpy as np

from benchmarks.measuring import Sample, interleaved, machine_line, table
from distrain.data.samples.packing import WINDOW_DOCUMENTS, Ints, PackedIndex, plan_best_fit

LENGTHS = (2048, 8192)
SHAPES = {"web": (6.2, 1.1), "short": (4.5, 1.0), "code": (7.0, 1.4)}
"""Mean and deviation of the logarithm of a document's tokens."""
LOOKUP_SHARDS, LOOKUP_SAMPLES, LOOKUPS = 8, 64, 200


def document_ends(shape: str, documents: int) -> Ints:
    """Make a shard's document ends."""
    sizes = np.random.default_rng(0).lognormal(*SHAPES[shape], documents)
    return np.cumsum(sizes.astype(np.int64) + 2)


class SpaceTree:
    """The spaces that some bin has left; each node holds the smallest one below it, or 0."""

    def __init__(self, length: int) -> None:
        self.leaves = 1 << length.bit_length()
        self.nodes = [0] * (2 * self.leaves)

    def put(self, space: int, *, exists: bool) -> None:
        """Note that bins with this space exist, or no longer."""
        nodes, node = self.nodes, self.leaves + space
        nodes[node] = space if exists else 0
        while node > 1:
            node //= 2
            nodes[node] = nodes[2 * node] or nodes[2 * node + 1]

    def tightest(self, least: int) -> int:
        """Find the smallest space of at least ``least``; 0 if no bin has it."""
        nodes, node = self.nodes, self.leaves + least
        if nodes[node]:
            return nodes[node]
        while node > 1:
            if node % 2 == 0 and nodes[node + 1]:
                return nodes[node + 1]
            node //= 2
        return 0


def count_bins_by_document(ends: Ints, length: int) -> int:
    """Pack one window document by document; returns the bins."""
    inputs = np.diff(ends, prepend=0) - 1
    tree, bins_with, opened = SpaceTree(length), [0] * (length + 1), 0
    for part in np.sort(inputs % length)[::-1].tolist():
        if not part:
            break
        space = tree.tightest(part)
        if space:
            bins_with[space] -= 1
            if not bins_with[space]:
                tree.put(space, exists=False)
        else:
            opened += 1
            space = length
        if space > part:
            bins_with[space - part] += 1
            tree.put(space - part, exists=True)
    return opened + int((inputs // length).sum())


def measure(shape: str, length: int, documents: int) -> list[str]:
    """Return a row of the table."""
    ends = document_ends(shape, documents)
    window = ends[:WINDOW_DOCUMENTS]
    plan = plan_best_fit(ends, length)
    if count_bins_by_document(window, length) != plan_best_fit(window, length).num_bins:
        raise SystemExit("the two ways of packing differ")
    index = PackedIndex([plan] * LOOKUP_SHARDS)
    wanted = np.random.default_rng(1).integers(0, index.num_samples, (LOOKUPS, LOOKUP_SAMPLES))

    def plan_all() -> None:
        plan_best_fit(ends, length)

    def plan_by_document() -> None:
        count_bins_by_document(window, length)

    def look_up() -> None:
        for indices in wanted:
            index.pieces_of(indices)

    samples = interleaved(
        {"distrain": plan_all, "by document": plan_by_document, "lookup": look_up}
    )
    ours = documents / median_cpu_s(samples["distrain"])
    theirs = len(window) / median_cpu_s(samples["by document"])
    inputs = np.diff(ends, prepend=0) - 1
    return [
        f"{shape}, {inputs.mean():.0f} on average",
        str(length),
        f"{ours:,.0f}",
        f"{theirs:,.0f}",
        f"{ours / theirs:.0f}",
        f"{100 * plan.padding():.4f} %",
        f"{100 * (inputs > length).mean():.1f} %",
        f"{1e6 * median_cpu_s(samples['lookup']) / wanted.size:.2f}",
    ]


def median_cpu_s(samples: list[Sample]) -> float:
    """Take the median of the CPU times."""
    return statistics.median(sample.cpu_s for sample in samples)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    documents = parser.parse_args().documents
    head = (
        "documents, tokens",
        "T",
        "documents a CPU-s",
        "document by document",
        "times as fast",
        "padding",
        "documents cut",
        "lookup: CPU us a sample",
    )
    rows = [measure(shape, length, documents) for length in LENGTHS for shape in SHAPES]
    sys.stdout.write(f"{machine_line()}\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
