"""The heaviest microbatches of a run, computed once before its first step.

Rows of fine-tuning differ in what a pass over them costs. So where memory does not suffice for the
heaviest, a run should end before its first step, not hours later. Nothing is counted, and nothing
changes: the update that would follow is refused as one of a loss that is not finite.
"""

import logging
import math
import time
from typing import NamedTuple

import numpy as np
import torch

from distrain.data.samples.loader import Microbatch
from distrain.data.samples.order import Ints
from distrain.fault.page import mark
from distrain.monitor.memory import peak_memory_gib
from distrain.tasks.task import TaskSums
from distrain.train.run import Run

log = logging.getLogger(__name__)

MAX_SAMPLES = 1 << 22
"""Looked at, from the next step on: under five seconds. Epochs of more hold rows as long."""


class HeavyBatch(NamedTuple):
    """A microbatch: samples of the run side by side, and what a pass over them takes."""

    first_sample: int
    num_samples: int
    positions: int
    targets: int
    longest_document: int


def find_heaviest(run: Run, step: int) -> list[HeavyBatch]:
    """Return the microbatches with the most positions, the most targets, the longest document.

    Of all ranks, from ``step`` to the end; each once. None where all samples cost the same.
    """
    streams = run.loader.feed.streams.values()
    if any(stream.costs(np.zeros(1, np.int64)) is None for stream in streams):
        return []
    found: list[HeavyBatch] = []
    seen = 0
    for number in range(step, run.max_steps):
        parts = _parts_of_step(run, number)
        # The first of equals stays: what is found does not depend on how far is looked.
        found = _heaviest([*found, *parts])
        seen += sum(part.num_samples for part in parts)
        if seen >= MAX_SAMPLES:
            break
    return found


def rehearse(run: Run, step: int) -> None:
    """Run forward and backward over the heaviest microbatches from ``step`` on. Collective.

    Every rank takes each of them, whose part of the batch it may be: with other ranks it is
    another's. Gradients are cleared; parameters, optimizer and random state stay as they are.
    """
    started = time.monotonic()
    parts = find_heaviest(run, step)
    if not parts:
        return
    engine = run.engine
    devices = [run.device] if run.device.type == "cuda" else []

    def measure(_: int, microbatch: Microbatch) -> TaskSums:
        mark()
        return run.measure(microbatch)

    scale = 1 / max(1, *(part.targets for part in parts))
    with torch.random.fork_rng(devices=devices):
        for some in passes_of(parts, _at_once(run, step)):
            for _ in engine.passes([_microbatch(run, part) for part in some], measure, scale):
                pass
    engine.fetch(torch.zeros(1, dtype=torch.float64, device=run.device))
    engine.update(run.lr_at(step), run.max_grad_norm, math.nan, math.nan)
    _tell(run, parts, time.monotonic() - started)


def passes_of(parts: list[HeavyBatch], at_once: int | None) -> list[list[HeavyBatch]]:
    """Return which microbatches run together, each at least once.

    The stages of a pipeline keep several at a time, up to all of a step, and some schedules take
    no fewer: so they are as many as in a step, the heaviest over and over. That is more than any
    step of the run needs, and never less.

    Args:
        parts: At least one.
        at_once: Microbatches of a rank in a step; ``None``: they run one after the other.
    """
    if at_once is None:
        return [parts]
    rounds = math.ceil(len(parts) / at_once)
    repeated = [parts[number % len(parts)] for number in range(rounds * at_once)]
    return [repeated[first : first + at_once] for first in range(0, len(repeated), at_once)]


def _at_once(run: Run, step: int) -> int | None:
    if run.engine.ranks.layout.size("pipeline") == 1:
        return None
    _, size = run.loader.feed.schedule.samples_of(step)
    return math.ceil(size // run.loader.dp_size / run.loader.micro_batch_size)


def _microbatch(run: Run, part: HeavyBatch) -> Microbatch:
    samples = np.arange(part.first_sample, part.first_sample + part.num_samples)
    return Microbatch.from_rows(run.loader.feed.rows(samples), 0, part.num_samples)


def _tell(run: Run, parts: list[HeavyBatch], seconds: float) -> None:
    _, (memory_gib,) = run.engine.ranks.exchange(maxima=[peak_memory_gib(run.device)])
    positions = max(part.positions for part in parts)
    targets = max(part.targets for part in parts)
    log.info(
        "the longest microbatches come first, once without counting: up to %d positions, %d "
        "targets; %.2f GiB, %.1f s",
        positions,
        targets,
        memory_gib,
        seconds,
    )
    if run.monitor is not None:
        run.monitor.event(
            "rehearsed",
            positions=positions,
            targets=targets,
            memory_gib=round(memory_gib, 3),
            seconds=round(seconds, 2),
        )


def _parts_of_step(run: Run, step: int) -> list[HeavyBatch]:
    loader = run.loader
    first, size = loader.feed.schedule.samples_of(step)
    costs = _costs(run, np.arange(first, first + size))
    share, parts = size // loader.dp_size, []
    for rank_first in range(0, size, share):
        for low in range(rank_first, rank_first + share, loader.micro_batch_size):
            high = min(low + loader.micro_batch_size, rank_first + share)
            lengths, targets, longest = costs[low:high].T
            # Rows of a microbatch are as long as the longest of them.
            positions = int(lengths.max()) * (high - low)
            parts.append(
                HeavyBatch(
                    first + low, high - low, positions, int(targets.sum()), int(longest.max())
                )
            )
    return parts


def _costs(run: Run, samples: Ints) -> Ints:
    """Return positions, targets and longest document of samples g, shape (samples, 3)."""
    plan = run.loader.feed.plan
    sources, n = plan.draw(samples)
    found = np.zeros((len(samples), 3), np.int64)
    for number in set(sources.tolist()):
        chosen = sources == number
        costs = run.loader.feed.streams[plan.names[number]].costs(n[chosen])
        assert costs is not None, "asked before"
        found[chosen] = costs
    return found


def _heaviest(parts: list[HeavyBatch]) -> list[HeavyBatch]:
    most = (
        max(parts, key=lambda part: (part.positions, part.targets)),
        max(parts, key=lambda part: (part.targets, part.positions)),
        max(parts, key=lambda part: (part.longest_document, part.positions)),
    )
    return list(dict.fromkeys(most))
