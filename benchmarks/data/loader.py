"""Ready tokens to training batches: tokens per CPU-second, beside a bare gather and torch.

    python -m benchmarks.data.loader [--tokens 134_000_000]

CPU seconds of the whole process tree: a loader's worker processes count.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.measuring import machine_line, median_ratio, table
from distrain.data.samples.datasets import PretrainDataset
from distrain.data.samples.feed import Feed, OrderedStream
from distrain.data.samples.loader import Loader
from distrain.data.samples.order import Order
from distrain.data.samples.schedule import Schedule
from distrain.data.shards.reader import MappedShard, ShardedTokens, map_array

LENGTH, BATCH = 2048, 8
ROUNDS = 5
STEPS = {"bare gather": 4000, "+ int64 tensor": 4000, "DataLoader, 2 workers": 400}


class MapStyle(TorchDataset[torch.Tensor]):
    """A sample of the same file, as a torch dataset has it."""

    def __init__(self, path: Path) -> None:
        self.tokens = np.memmap(path, np.uint16, "r")

    def __len__(self) -> int:
        """Count the samples."""
        return (len(self.tokens) - 1) // LENGTH

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return T + 1 tokens."""
        start = index * LENGTH
        return torch.from_numpy(self.tokens[start : start + LENGTH + 1].astype(np.int64))


def write_tokens(folder: Path, count: int) -> None:
    """Write a shard of documents with log-normal lengths (median 600 tokens)."""
    dice = np.random.default_rng(0)
    dice.integers(1, 50_000, count, np.uint16).tofile(folder / "00000.bin")
    ends = np.cumsum(dice.lognormal(6.4, 1.2, count // 400).astype(np.int64) + 2)
    np.append(ends[ends < count], count).astype("<u8").tofile(folder / "00000.idx")


def open_tokens(folder: Path) -> ShardedTokens:
    """Open what ``write_tokens`` wrote."""
    ends = map_array(folder / "00000.idx", "uint64", (folder / "00000.idx").stat().st_size // 8)
    return ShardedTokens([MappedShard(folder / "00000.bin", "uint16", ends)], eos_id=0)


def make_loader(folder: Path, **settings: int) -> Loader:
    """Make ours: shuffled, with targets, positions, document ends, and a digest of each sample."""
    dataset = PretrainDataset(open_tokens(folder), LENGTH)
    stream = OrderedStream(dataset, Order(1, "text", len(dataset)), "benchmark")
    feed = Feed({"text": stream}, Schedule.planned(BATCH, {0: {"text": 1}}), 1)
    return Loader(feed, micro_batch_size=BATCH, **settings)


def bare(folder: Path, steps: int, *, as_tensor: bool = False) -> None:
    """Gather rows at random, and nothing else."""
    tokens = open_tokens(folder).shards[0]
    count = (tokens.num_tokens - 1) // LENGTH
    for indices in np.random.default_rng(0).integers(0, count, (steps, BATCH)) * LENGTH:
        rows = np.stack([tokens.tokens(start, start + LENGTH + 1) for start in indices.tolist()])
        if as_tensor:
            torch.from_numpy(rows.astype(np.int64))


def ours(folder: Path, steps: int, **settings: int) -> None:
    """Run our loader."""
    batches = make_loader(folder, **settings).batches()
    for _ in range(steps):
        next(batches)
    batches.close()


def torch_loader(folder: Path, steps: int, workers: int) -> None:
    """Run torch's."""
    samples = MapStyle(folder / "00000.bin")
    chosen = torch.utils.data.RandomSampler(samples, num_samples=steps * BATCH)
    loader: Iterator[torch.Tensor] = iter(
        DataLoader(samples, BATCH, sampler=chosen, num_workers=workers)
    )
    for _ in loader:
        pass


BODIES: dict[str, Callable[[Path, int], None]] = {
    "bare gather": bare,
    "+ int64 tensor": lambda folder, steps: bare(folder, steps, as_tensor=True),
    "ours, in the caller's thread": lambda folder, steps: ours(folder, steps, prefetch=0),
    "ours, 1 thread": lambda folder, steps: ours(folder, steps, prefetch=2, num_threads=1),
    "ours, 2 threads": lambda folder, steps: ours(folder, steps, prefetch=4, num_threads=2),
    "DataLoader, 0 workers": lambda folder, steps: torch_loader(folder, steps, 0),
    "DataLoader, 2 workers": lambda folder, steps: torch_loader(folder, steps, 2),
}


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (0, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def rate(name: str, folder: Path) -> float:
    """Measure one body: millions of tokens per CPU-second."""
    steps = STEPS.get(name, 1500)
    before = cpu_s()
    BODIES[name](folder, steps)
    return steps * BATCH * LENGTH / (cpu_s() - before) / 1e6


def throughput(folder: Path) -> str:
    """Interleave all bodies and lay out the medians."""
    rates: dict[str, list[float]] = {name: [] for name in BODIES}
    for name in BODIES:
        BODIES[name](folder, 20)  # the file into the page cache, the modules into memory
    for number in range(ROUNDS):
        names = list(BODIES)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rates[name].append(rate(name, folder))
    rows = [
        [
            name,
            f"{statistics.median(values):.0f}",
            f"{min(values):.0f}-{max(values):.0f}",
            f"{100 * median_ratio(values, rates['bare gather']):.1f} %",
        ]
        for name, values in rates.items()
    ]
    return table(["loader", "Mtok per CPU-s (median)", "range", "of the bare gather"], rows)


RESUME = """
import json, sys, time, resource
import torch
from pathlib import Path
import benchmarks.data.loader as benchmark
folder, step = Path(sys.argv[1]), int(sys.argv[2])
def private():
    fields = dict(line.split(":") for line in open("/proc/self/smaps_rollup") if ":" in line[:20])
    return int(fields["Private_Dirty"].split()[0]) / 1024
before, memory = time.process_time(), private()
loader = benchmark.make_loader(folder, prefetch=0)
loader.feed.restore(loader.feed.state(), step)
loader.batch_at(step)
print(json.dumps({"cpu_ms": 1e3 * (time.process_time() - before),
                  "private_mib": private() - memory,
                  "state_bytes": len(json.dumps(loader.feed.state()))}))
"""


def resume(folder: Path) -> str:
    """Measure from nothing to the first batch of a step, in fresh processes."""
    rows = []
    for step in (0, 10**5, 10**9):
        seen = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-c", RESUME, str(folder), str(step)],
                    check=True,
                    capture_output=True,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                ).stdout
            )
            for _ in range(ROUNDS)
        ]
        median = {key: statistics.median(value[key] for value in seen) for key in seen[0]}
        rows.append(
            [
                f"{step:,}",
                f"{median['cpu_ms']:.1f}",
                f"{median['private_mib']:.1f}",
                f"{median['state_bytes']:.0f}",
            ]
        )
    return table(["first batch at step", "CPU ms", "private MiB over imports", "state bytes"], rows)


def epoch_start() -> str:
    """Measure what it costs to begin an epoch of N samples: the first 4096 of its order."""
    rows = []
    for size in (10**6, 5 * 10**7, 10**12):
        seen = []
        for number in range(ROUNDS):
            order = Order(number, "text", size)
            before = cpu_s()
            order.visit(np.arange(4096) + 3 * size)
            seen.append(1e3 * (cpu_s() - before))
        rows.append([f"{size:,}", f"{statistics.median(seen):.1f}"])
    return table(["samples in the epoch", "CPU ms for its first 4096"], rows)


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=134_000_000)
    tokens = parser.parse_args().tokens
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(folder, tokens)
        print(f"{tokens:,} tokens, sequences of {LENGTH}, batches of {BATCH}; {machine_line()}")
        print(throughput(folder), resume(folder), epoch_start(), sep="\n\n")
        print(machine_line())


if __name__ == "__main__":
    main()
