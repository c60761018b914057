"""Packing, mixture, filter and on-the-fly tokenization together: the same batches whatever happens.

A "run" here is the data path of one: ranks that read their parts of each step's batch, write down
what they read, and keep the state of the feed every few steps. It is killed, and goes on from the
last state at another number of ranks, as training does.
"""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from torch.multiprocessing.spawn import start_processes

import tests.ranks  # noqa: F401  (its fork server has torch loaded)
from distrain.data.samples.datasets import Dataset, PackedDataset, PretrainDataset
from distrain.data.samples.feed import Feed, OrderedStream
from distrain.data.samples.loader import Loader
from distrain.data.samples.on_the_fly import OnTheFlyStream, range_order
from distrain.data.samples.order import Order
from distrain.data.samples.packing import PackedIndex, plan_best_fit
from distrain.data.samples.range_shards import Patience, RangeShards
from distrain.data.samples.schedule import Schedule
from distrain.data.samples.source import OpenedSource
from distrain.data.shards.reader import open_split
from tests.distrain.data.made_corpus import make_texts, write_split
from tests.distrain.data.made_ranges import MakeFiltered

pytestmark = pytest.mark.data

LENGTH, RANGES, SEED, STEPS, SAVE_STEPS = 24, 9, 11, 40, 4
BATCH_SIZE = 24
WEIGHTS: dict[int, dict[str, float]] = {  # by the step from which they hold
    0: {"web": 2, "code": 1, "books": 0.7},
    13: {"web": 1, "code": 1},
    29: {"web": 1, "code": 3, "books": 1},
}


def open_feed(root, packing):
    streams: dict[str, OpenedSource] = {}
    for name in ("code", "books"):
        split = open_split(root, "train", name, stage_kind="pretrain")
        dataset: Dataset
        if packing:
            index = PackedIndex([plan_best_fit(shard.ends, LENGTH) for shard in split.shards])
            dataset = PackedDataset(split, index, LENGTH)
        else:
            dataset = PretrainDataset(split, LENGTH)
        blocks = (8, 4) if name == "code" else (0, 1)
        order = Order(SEED, name, len(dataset), *blocks)
        streams[name] = OrderedStream(dataset, order, split.manifest.digest)
    ranges = RangeShards(
        MakeFiltered(root), range_order(SEED, "web", RANGES), patience=Patience(10, 60)
    )
    order = Order(SEED, "web", 1, 4, 4)
    streams["web"] = OnTheFlyStream(ranges, order, LENGTH, is_packed=packing, content="made")
    return Feed(streams, Schedule.planned(BATCH_SIZE, WEIGHTS), SEED)


@dataclass(frozen=True)
class Job:
    """Ranks that read."""

    root: Path
    log: Path
    packing: bool
    world_size: int
    threads: int = 1
    slow_s: float = 0.0
    attempt: int = 0


def read_steps(rank, job):
    """Body of a rank: goes on from the newest state, as the loop does."""
    feed = open_feed(job.root, job.packing)
    start = 0
    for state in sorted(job.log.glob("state_*.json"))[-1:]:
        start = int(state.stem.split("_")[1])
        feed.restore(json.loads(state.read_text()), start)
    loader = Loader(
        feed,
        micro_batch_size=3,
        dp_rank=rank,
        dp_size=job.world_size,
        prefetch=3,
        num_threads=job.threads,
    )
    batches = loader.batches(start)
    name = f"rank_{rank}_of_{job.world_size}_{job.attempt}.jsonl"
    with (job.log / name).open("w") as lines:
        for step in range(start, STEPS):
            batch = next(batches)
            lines.write(f"{[step, batch.first_sample, batch.num_samples, batch.digest]}\n")
            lines.flush()
            time.sleep(job.slow_s)
            if rank == 0 and (step + 1) % SAVE_STEPS == 0:
                wait_for_all(job, step)
                unfinished = job.log / f".state_{step + 1:05d}"
                unfinished.write_text(json.dumps(feed.state()))
                unfinished.rename(job.log / f"state_{step + 1:05d}.json")
    batches.close()
    feed.streams["web"].close()


def wait_for_all(job, step):
    """No rank trains on while another has not: a state is saved when all are there."""
    pattern = f"rank_*_of_{job.world_size}_{job.attempt}.jsonl"
    while sum(f"[{step}, " in file.read_text() for file in job.log.glob(pattern)) < job.world_size:
        time.sleep(0.005)


def start(job):
    return start_processes(
        read_steps, (job,), nprocs=job.world_size, join=False, start_method="forkserver"
    )


def run(job):
    """Let the ranks read to the end."""
    ranks = start(job)
    while not ranks.join(timeout=60):
        pass


def run_and_kill(job, num_lines):
    """Kill all ranks at once when together they have read that many parts of batches."""
    before = count_lines(job.log)
    ranks = start(job)
    while count_lines(job.log) < before + num_lines:
        assert all(process.exitcode is None for process in ranks.processes), "ended too early"
        time.sleep(0.005)
    for process in ranks.processes:
        process.kill()
    for process in ranks.processes:
        process.join()


def count_lines(log):
    return sum(file.read_bytes().count(b"\n") for file in log.glob("rank_*.jsonl"))


def steps_of(log):
    """Of each step: its first sample, its size, and the sum of the ranks' digests."""
    parts: dict[tuple[int, int], dict[int, list[int]]] = {}
    for file in log.glob("rank_*.jsonl"):
        _, rank, _, world_size, _ = file.stem.split("_")
        for line in file.read_text().splitlines():
            if line.endswith("]"):
                step, *read = json.loads(line)
                parts.setdefault((step, int(world_size)), {}).setdefault(int(rank), read)
                # A part that was read again must be the same.
                assert parts[step, int(world_size)][int(rank)] == read
    found: dict[int, tuple[int, int, int]] = {}
    for (step, world_size), ranks in parts.items():
        if len(ranks) == world_size:
            first, size, _ = ranks[0]
            whole = (first, size, sum(digest for *_, digest in ranks.values()) % 2**32)
            # Another number of ranks must have read the same batch.
            assert found.setdefault(step, whole) == whole
    return found


@pytest.fixture(scope="module", params=[False, True], ids=["concat", "best_fit"])
def packing(request):
    return request.param


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepare")
    write_split(root, "train", make_texts(120, seed=3), source="code")
    write_split(root, "train", make_texts(70, seed=4), source="books")
    return root


@pytest.fixture(scope="module")
def undisturbed(corpus, packing, tmp_path_factory):
    """What each step reads on one rank that is never killed."""
    log = tmp_path_factory.mktemp("undisturbed")
    run(Job(corpus, log, packing, 1))
    return steps_of(log)


def fresh(corpus, folder):
    """The same prepared sources, without a range."""
    root = folder / "prepare"
    root.mkdir()
    for name in ("train", "tokenizer.json"):
        (root / name).symlink_to(corpus / name)
    return root


@pytest.mark.parametrize(("world_size", "threads"), [(2, 1), (3, 2), (4, 1), (8, 3)])
def test_any_number_of_ranks_and_threads_reads_the_same_steps(
    corpus, undisturbed, packing, tmp_path, world_size, threads
):
    run(Job(fresh(corpus, tmp_path), tmp_path, packing, world_size, threads))
    assert steps_of(tmp_path) == undisturbed


@pytest.mark.parametrize("chain", [(2, 1, 4, 3), (8, 3, 2)])
def test_killed_and_resumed_at_other_numbers_of_ranks_it_reads_the_same_steps(
    corpus, undisturbed, packing, tmp_path, chain
):
    dice = random.Random(f"{chain} {packing}")
    root = fresh(corpus, tmp_path)
    for attempt, world_size in enumerate(chain[:-1], start=1):
        job = Job(root, tmp_path, packing, world_size, slow_s=0.02, attempt=attempt)
        run_and_kill(job, dice.randint(1, 9 * world_size))
    run(Job(root, tmp_path, packing, chain[-1]))
    assert steps_of(tmp_path) == undisturbed


def test_no_sample_is_lost_or_repeated(corpus, undisturbed, packing):
    assert sorted(undisturbed) == list(range(STEPS))
    samples = [g for step in range(STEPS) for g in samples_of(undisturbed[step])]
    assert samples == list(range(STEPS * BATCH_SIZE))
    feed = open_feed(corpus, packing)
    sources, n = feed.plan.draw(np.array(samples))
    feed.streams["web"].close()
    for column in range(len(feed.plan.names)):
        read = n[sources == column].tolist()
        assert read == list(range(len(read)))


def samples_of(entry):
    return range(entry[0], entry[0] + entry[1])
