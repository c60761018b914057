"""Layer 3: which sample comes k-th. A pure function of (seed, k), without memory or state.

Each epoch visits every sample once, in the order of a keyed permutation: a Feistel network
(Luby and Rackoff 1988) on the smallest domain of an even number of bits that holds all samples;
results outside are permuted again until they fall inside (cycle walking: Black and Rogaway 2002).
It is part of what a checkpoint means, so any change of it needs a new ``ORDER_VERSION``.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ORDER_VERSION = 1

ROUNDS = 8
"""Four make a permutation look random; on few bits, more rounds come closer to it."""


def sample_index(seed: int, k: int, num_samples: int) -> tuple[int, int]:
    """Return the epoch and the index in [0, num_samples) of the run's sample ``k``."""
    epochs, indices = sample_indices(seed, np.array([k]), num_samples)
    return int(epochs[0]), int(indices[0])


def sample_indices(
    seed: int, k: NDArray[np.integer], num_samples: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Do as ``sample_index`` for many ``k`` at once, int64 of its shape.

    Raises:
        ValueError: There are no samples, or a ``k`` is negative.
    """
    if num_samples < 1 or (k.size and k.min() < 0):
        raise ValueError(f"sample {k.min() if k.size else '-'} of {num_samples}: no such sample")
    epochs, places = np.divmod(k.astype(np.int64), num_samples)
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        indices[chosen] = permute(round_keys(seed, int(epoch)), places[chosen], num_samples)
    return epochs, indices


@lru_cache(maxsize=8)
def round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    """Derive the 64-bit key of each round from everything that names an epoch's order."""
    name = f"distrain order {ORDER_VERSION} seed {seed} epoch {epoch}".encode()
    digest = hashlib.blake2b(name, digest_size=8 * ROUNDS).digest()
    return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(ROUNDS))


def permute(keys: tuple[int, ...], places: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Map ``places`` in [0, size) to distinct values in [0, size)."""
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    values = _feistel(keys, places.astype(np.uint64), half_bits)
    # The domain holds at most four times as many values as there are samples (except below two
    # samples), so a value needs fewer than four walks on average.
    while (outside := values >= size).any():
        values[outside] = _feistel(keys, values[outside], half_bits)
    return values.astype(np.int64)


def _feistel(
    keys: tuple[int, ...], values: NDArray[np.uint64], half_bits: int
) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + np.uint64(key)) & mask)
    return (left << shift) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Let every input bit reach every output bit: the finaliser of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
