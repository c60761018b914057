"""Layer 3: the order in which a source is read: a pure function of (seed, source, n), no state.

Each epoch visits every sample once, in the order of a keyed permutation: a Feistel network
(Luby and Rackoff 1988) on the smallest domain of an even number of bits that holds all samples;
results outside are permuted again until they fall inside (cycle walking: Black and Rogaway 2002).
It is part of what a checkpoint means, so any change of it needs a new ``ORDER_VERSION``.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ORDER_VERSION = 2

ROUNDS = 8
"""Four make a permutation look random; on few bits, more rounds come closer to it."""

CHUNK = 1024

Ints = NDArray[np.int64]
Keys = tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """The order in which the samples of a source are read, over all epochs.

    Args:
        seed: The recipe's.
        source: Its name: sources of one size are not read in one order.
        num_samples: N, of an epoch.
        block_samples: K neighbours that are read at about the same time; 0 permutes all samples
            freely. Blocks come in a keyed order, and samples are permuted within windows of
            ``window_blocks`` of them, so that a reader of remote data needs few and large reads.
        window_blocks: Blocks in one window.
    """

    seed: int
    source: str
    num_samples: int
    block_samples: int = 0
    window_blocks: int = 64

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"source '{self.source}' has no sample")

    def visit(self, n: Ints) -> tuple[Ints, Ints]:
        """Return the epochs and the indices in [0, N) of the samples ``n``, int64 of its shape.

        Raises:
            ValueError: An ``n`` is negative.
        """
        if n.size and n.min() < 0:
            raise ValueError(f"sample {n.min()}: no such sample")
        # Samples of one request may lie on both sides of an epoch's end, where the keys change.
        epochs, places = np.divmod(n.astype(np.int64), self.num_samples)
        indices = np.empty_like(places)
        for epoch in _distinct(epochs):
            chosen = epochs == epoch
            indices[chosen] = self._indices_at(epoch, places[chosen])
        return epochs, indices

    def find(self, epoch: int, indices: Ints) -> Ints:
        """Return which n visits each of ``indices`` in ``epoch``: the inverse of ``visit``."""
        if not self.block_samples:
            places = unpermute(self._keys("epoch", epoch), indices, self.num_samples)
        else:
            places = self._in_windows(epoch, self._out_of_blocks(epoch, indices), back=True)
        return places + epoch * self.num_samples

    def _indices_at(self, epoch: int, places: Ints) -> Ints:
        """Look up places of an epoch; neighbours are computed and cached in the same call."""
        indices = np.empty_like(places)
        chunks = places // CHUNK
        for chunk in _distinct(chunks):
            chosen = chunks == chunk
            indices[chosen] = _chunk(self, epoch, chunk)[places[chosen] - chunk * CHUNK]
        return indices

    def index_of(self, epoch: int, places: Ints) -> Ints:
        """Return the indices at ``places``, in [0, N), of an epoch."""
        if not self.block_samples:
            return permute(self._keys("epoch", epoch), places, self.num_samples)
        return self._into_blocks(epoch, self._in_windows(epoch, places, back=False))

    def _keys(self, *name: object) -> Keys:
        return round_keys(self.seed, self.source, *name)

    @property
    def window(self) -> int:
        """Samples that are mixed with each other, where blocks are."""
        return self.window_blocks * self.block_samples

    def _in_windows(self, epoch: int, places: Ints, *, back: bool) -> Ints:
        name = (self.source, "epoch", epoch, "window")
        return in_windows(places, self.window, self.num_samples, self.seed, name, back=back)

    # Blocks: slot s of the epoch holds a whole block. The last block may be short; where it comes,
    # the places after it move up.

    def _blocks(self, epoch: int) -> tuple[Keys, int, int, int]:
        """Return keys and number of the blocks, the short one's slot, and what it lacks."""
        keys = self._keys("epoch", epoch, "blocks")
        count = -(-self.num_samples // self.block_samples)
        # The last block alone may be short, and the permutation decides where it comes.
        slot = int(unpermute(keys, np.array([count - 1]), count)[0])
        return keys, count, slot, count * self.block_samples - self.num_samples

    def _into_blocks(self, epoch: int, places: Ints) -> Ints:
        keys, count, short, lack = self._blocks(epoch)
        # Places behind the short block are moved back by what it lacks; then all slots are equally
        # long.
        behind = places >= (short + 1) * self.block_samples - lack
        slots, within = np.divmod(places + behind * lack, self.block_samples)
        return permute(keys, slots, count) * self.block_samples + within

    def _out_of_blocks(self, epoch: int, indices: Ints) -> Ints:
        keys, count, short, lack = self._blocks(epoch)
        blocks, within = np.divmod(indices, self.block_samples)
        slots = unpermute(keys, blocks, count)
        return slots * self.block_samples + within - (slots > short) * lack


@lru_cache(maxsize=64)
def _chunk(order: Order, epoch: int, number: int) -> Ints:
    """Make a run of places at once: numpy takes as long for a batch as for a thousand samples."""
    start = number * CHUNK
    return order.index_of(epoch, np.arange(start, min(start + CHUNK, order.num_samples)))


@lru_cache(maxsize=64)
def round_keys(seed: int, *name: object) -> Keys:
    """Derive the 64-bit key of each round from the seed and everything that names an order."""
    text = f"distrain order {ORDER_VERSION} seed {seed} {name!r}".encode()
    digest = hashlib.blake2b(text, digest_size=8 * ROUNDS).digest()
    return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(ROUNDS))


def permute(keys: Keys, places: Ints, size: int) -> Ints:
    """Map ``places`` in [0, size) to distinct values in [0, size)."""
    half_bits = _half_bits(size)
    values = _feistel(keys, places.astype(np.uint64), half_bits)
    # The domain holds at most four times as many values as there are samples (except below two
    # samples), so a value needs fewer than four walks on average.
    while (outside := values >= size).any():
        values[outside] = _feistel(keys, values[outside], half_bits)
    return values.astype(np.int64)


def unpermute(keys: Keys, values: Ints, size: int) -> Ints:
    """Undo ``permute``."""
    half_bits = _half_bits(size)
    places = _feistel_back(keys, values.astype(np.uint64), half_bits)
    while (outside := places >= size).any():
        places[outside] = _feistel_back(keys, places[outside], half_bits)
    return places.astype(np.int64)


def in_windows(
    places: Ints, window: int, num_places: int, seed: int, name: tuple[object, ...], *, back: bool
) -> Ints:
    """Permute each stretch of ``window`` places, or undo it.

    Args:
        places: In [0, num_places).
        window: Size of a stretch; the last one ends at ``num_places``.
        num_places: Of all stretches.
        seed: With ``name`` and the number of a stretch, what keys its permutation.
        name: See ``seed``.
        back: Undo it.
    """
    move = unpermute if back else permute
    numbers = places // window
    moved = np.empty_like(places)
    # A key for each stretch: with one for all, every window would be mixed in the same way.
    for number in _distinct(numbers):
        chosen = numbers == number
        first = number * window
        size = min(window, num_places - first)
        moved[chosen] = move(round_keys(seed, *name, number), places[chosen] - first, size) + first
    return moved


def _half_bits(size: int) -> int:
    # A Feistel network needs two halves of one size, so the domain has an even number of bits.
    return max(1, ((size - 1).bit_length() + 1) // 2)


def _feistel(keys: Keys, values: NDArray[np.uint64], half_bits: int) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + np.uint64(key)) & mask)
    return (left << shift) | right


def _feistel_back(keys: Keys, values: NDArray[np.uint64], half_bits: int) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in reversed(keys):
        # One round undone: what was ``right`` before it is ``left`` after it.
        left, right = right ^ (_mix(left + np.uint64(key)) & mask), left
    return (left << shift) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Let every input bit reach every output bit: the finalizer of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _distinct(numbers: Ints) -> list[int]:
    """List the values, most often a single one."""
    if numbers.size and numbers.min() == numbers.max():
        return [int(numbers.min())]
    values: list[int] = np.unique(numbers).tolist()
    return values
