"""Layer 3: which source the run's g-th sample comes from, and which sample of that source it is.

Within a segment (``schedule``) the sources' shares are held exactly: after b blocks of
``BLOCK_SAMPLES`` samples each source has had what Webster's method (Sainte-Lague 1910) gives it of
b * BLOCK_SAMPLES seats, which is its share to about one sample. That method never takes a seat
back when there are more, so a block holds the difference of two such counts. Inside a block the
sources come in a keyed order, and each source's samples in theirs: whatever sample a segment ends
at, every source has been read up to a point and not beyond.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from heapq import heapify, heapreplace
from math import lcm

import numpy as np
from numpy.typing import NDArray

from distrain.data.samples.order import Ints, permute, round_keys

BLOCK_SAMPLES = 2048


@dataclass(frozen=True)
class Mixture:
    """One segment's mixture of sources.

    Args:
        seed: The recipe's.
        name: Of the segment; what keys its order.
        weights: Of each source; any positive or zero numbers.
        sizes: If given, the sources' samples in one epoch. The mixture then repeats after
            ``sum(sizes)`` samples, in which each source is read once. ``weights`` are the same.
    """

    seed: int
    name: str
    weights: tuple[int, ...]
    sizes: tuple[int, ...] | None = None

    def draw(self, x: Ints) -> tuple[Ints, Ints]:
        """Return source and number within it (both from 0) of the segment's samples ``x``."""
        only = self._only_source
        if only is not None:
            return np.full_like(x, only), x.astype(np.int64)
        sources, numbers = np.empty_like(x), np.empty_like(x)
        cycles, blocks, within = self._places(x)
        # A batch lies in one block or two: looked up once each, not once a sample.
        for cycle, block in {*zip(cycles.tolist(), blocks.tolist(), strict=True)}:
            chosen = (cycles == cycle) & (blocks == block)
            content = self._block(cycle, block)
            before = np.array(self._before(cycle, block))
            sources[chosen] = content.sources[within[chosen]]
            numbers[chosen] = content.ranks[within[chosen]] + before[sources[chosen]]
        return sources, numbers

    def consumed(self, x: int) -> tuple[int, ...]:
        """Return how many samples of each source the segment's first ``x`` hold."""
        cycle, block, within = (int(value[0]) for value in self._places(np.array([x])))
        before = self._before(cycle, block)
        # At the beginning of a block there is nothing to make.
        if not within:
            return before
        part = np.bincount(self._block(cycle, block).sources[:within], minlength=len(before))
        return tuple(a + int(b) for a, b in zip(before, part, strict=True))

    def find(self, source: int, number: int) -> int:
        """Return the segment's sample that is ``number`` of ``source``: ``draw`` undone.

        Raises:
            ValueError: The mixture does not read this source.
        """
        if not self.weights[source]:
            raise ValueError(f"source {source} of weights {self.weights} is not read")
        if self._only_source == source:
            return number
        cycle = 0 if self.sizes is None else number // self.sizes[source]
        # How many samples of a source lie before a block never falls: doubled until the block is
        # passed, then bisected: a few dozen counts, however long the run.
        low, high = 0, 1
        while self._before(cycle, high)[source] <= number and not self._is_last(high):
            low, high = high, 2 * high
        while low + 1 < high:
            middle = (low + high) // 2
            if not self._is_last(middle) and self._before(cycle, middle)[source] <= number:
                low = middle
            else:
                high = middle
        content = self._block(cycle, low)
        rank = number - self._before(cycle, low)[source]
        (places,) = np.nonzero(content.sources == source)
        return int(places[rank]) + low * BLOCK_SAMPLES + cycle * (self._period or 0)

    @property
    def _only_source(self) -> int | None:
        chosen = [number for number, weight in enumerate(self.weights) if weight]
        return chosen[0] if len(chosen) == 1 else None

    @property
    def _period(self) -> int | None:
        return None if self.sizes is None else sum(self.sizes)

    def _is_last(self, block: int) -> bool:
        return self._period is not None and block * BLOCK_SAMPLES >= self._period

    def _places(self, x: Ints) -> tuple[Ints, Ints, Ints]:
        """Return cycle, block within the cycle, and place within the block."""
        cycles, rest = np.divmod(x, self._period) if self._period else (np.zeros_like(x), x)
        return (cycles, *np.divmod(rest, BLOCK_SAMPLES))

    def _before(self, cycle: int, block: int) -> tuple[int, ...]:
        counts = apportion(self.weights, min(block * BLOCK_SAMPLES, self._period or 1 << 62))
        if self.sizes is None or not cycle:
            return counts
        return tuple(a + cycle * b for a, b in zip(counts, self.sizes, strict=True))

    def _block(self, cycle: int, block: int) -> "_Block":
        start = block * BLOCK_SAMPLES
        stop = min(start + BLOCK_SAMPLES, self._period or start + BLOCK_SAMPLES)
        return _make_block(self.seed, (self.name, cycle, block), self.weights, start, stop)


@dataclass(frozen=True)
class _Block:
    """The samples of one block in order.

    Args:
        sources: Shape (samples,), uint16.
        ranks: How many of the same source came before in the block, int64.
    """

    sources: NDArray[np.uint16]
    ranks: Ints


@lru_cache(maxsize=16)
def _make_block(
    seed: int, name: tuple[object, ...], weights: tuple[int, ...], start: int, stop: int
) -> _Block:
    first, last = apportion(weights, start), apportion(weights, stop)
    counts = [b - a for a, b in zip(first, last, strict=True)]
    size = stop - start
    kinds = np.repeat(np.arange(len(weights), dtype=np.uint16), counts)
    sources = kinds[permute(round_keys(seed, "mixture", *name), np.arange(size), size)]
    ranks = np.empty(size, np.int64)
    # Stable, so the places of a source come in order: the k-th of them gets rank k.
    ranks[np.argsort(sources, kind="stable")] = np.concatenate([np.arange(c) for c in counts])
    return _Block(sources, ranks)


@lru_cache(maxsize=256)
def apportion(weights: tuple[int, ...], seats: int) -> tuple[int, ...]:
    """Share out ``seats`` by Webster's method: seat k of a source costs (2k + 1) / weight.

    The cheapest seats are taken, of equally cheap ones that of the first source. Exact for
    integers of any size; more seats never take one away from a source.

    Raises:
        ValueError: All weights are zero, or one is negative.
    """
    total = sum(weights)
    if total <= 0 or min(weights) < 0:
        raise ValueError(f"weights {weights}; expected at least one above zero, none below")
    # Fewer than all seats, whatever the rounding: each source is less than half a seat off.
    sure = max(0, 2 * seats - len(weights))
    counts = [(sure * weight + total) // (2 * total) for weight in weights]
    # Fractions, as two prices that differ in the last bit would be ordered by rounding, and the
    # same weights on another machine might be dealt out otherwise.
    queue = [
        (Fraction(2 * count + 1, weight), number)
        for number, (count, weight) in enumerate(zip(counts, weights, strict=True))
        if weight
    ]
    heapify(queue)
    for _ in range(seats - sum(counts)):
        _, number = queue[0]
        counts[number] += 1
        heapreplace(queue, (Fraction(2 * counts[number] + 1, weights[number]), number))
    return tuple(counts)


def integer_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Turn weights as a person writes them (0.7, 0.2, 0.1) into the smallest integers alike."""
    # Of the decimal that was written: 0.1 is 1/10 here, where the binary number is only near it.
    exact = [Fraction(repr(float(weight))) for weight in weights]
    scale = lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    divisor = np.gcd.reduce(np.array(whole, object)) or 1
    return tuple(int(weight // divisor) for weight in whole)
