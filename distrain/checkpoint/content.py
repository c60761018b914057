"""What a checkpoint holds, as a number that does not depend on who wrote it, how and where.

Each element gives a hash of its tensor's name, dtype and shape, its place in that tensor and its
bits. The hashes are summed modulo 2**64: every rank adds the boxes that it writes, in any order,
and the sum over ranks is that of the whole tensors. Files are covered by SHA-256 besides; this
number tells products apart, and is no defence against somebody who wants two to look alike.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distrain.checkpoint.commit import Content
from distrain.fault.page import page
from distrain.parallel.global_tensor import Box, GlobalTensor, State

PRODUCT_PREFIXES = ("model/", "buffer/")
"""Entries that a later stage is built from; all others serve this stage alone."""

BLOCK = 1 << 15
"""Elements hashed at a time: both halves of the work fit the second-level cache."""

# Of splitmix64; PLACE keeps the places of one tensor apart, the others stir.
PLACE, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MODULUS = 1 << 64
HALF = np.uint64(32)

UINT = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}
INT = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Sums = tuple[int, int]
"""Of the entries that make the product, and of the others."""


def sum_hashes(state: State) -> Sums:
    """Sum the hashes of all elements that this rank writes. Not collective."""
    hasher = _Hasher()
    sums = [0, 0]
    for name, entry in state.items():
        if entry.writes:
            # ``Sums`` holds the product first: False is 0.
            sums[not name.startswith(PRODUCT_PREFIXES)] += hasher.entry(name, entry)
    return sums[0] % MODULUS, sums[1] % MODULUS


def join(parts: Iterable[Sums]) -> Content:
    """Put together what all ranks summed."""
    product, rest = (sum(sums) % MODULUS for sums in zip(*parts, strict=True))
    return Content(f"{product:016x}", f"{rest:016x}")


def product_of_files(checkpoint: Path) -> str:
    """Return ``Content.product`` of a checkpoint that was committed without; reads its files.

    In this process alone. What serves the stage alone, twice as large, is not read.
    """
    from distrain.checkpoint.dcp import read_whole

    return join([sum_hashes(read_whole(checkpoint, PRODUCT_PREFIXES))]).product


class _Hasher:
    """Memory that all blocks share."""

    def __init__(self) -> None:
        self._places = np.arange(BLOCK, dtype=np.uint64) * np.uint64(PLACE)
        self._mixed = np.empty(BLOCK, np.uint64)
        self._shifted = np.empty(BLOCK, np.uint64)

    def entry(self, name: str, entry: GlobalTensor) -> int:
        """Sum the hashes of this rank's elements of one tensor; not reduced."""
        form = f"{name} {str(entry.dtype).removeprefix('torch.')} {list(entry.shape)}"
        seed = int.from_bytes(hashlib.blake2b(form.encode(), digest_size=8).digest())
        total = 0
        for box in entry.boxes:
            if box.tensor.numel():
                places, values = _runs(box, entry.shape)
                for first, block in _blocks(places, values):
                    page.mark_chunk()
                    total += self._block(first, block, seed)
        return total

    def _block(self, first: NDArray[np.uint64], values: NDArray[Any], seed: int) -> int:
        """Sum the hashes of some rows, shape (rows, n), given the place of each one's first."""
        mixed = self._mixed[: values.size].reshape(values.shape)
        shifted = self._shifted[: values.size].reshape(values.shape)
        np.add(values, self._places[: values.shape[1]], out=mixed)
        mixed += (first * np.uint64(PLACE) + np.uint64(seed))[:, None]
        # Twice: one multiplication carries a flipped bit only upwards, the shift brings it down.
        for factor in (FIRST, SECOND):
            mixed *= np.uint64(factor)
            np.right_shift(mixed, HALF, out=shifted)
            mixed ^= shifted
        return int(mixed.sum(dtype=np.uint64))


def _runs(box: Box, shape: tuple[int, ...]) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    """Cut a box into runs that lie without a gap in the row-major order of the whole tensor.

    Returns:
        The place of the first element of each run, shape (runs,), and the bits of the elements as
        unsigned integers, shape (runs, n).
    """
    cut = [axis for axis, size in enumerate(box.sizes) if size != shape[axis]]
    axis = cut[-1] if cut else 0  # from here on, a run takes in all axes
    strides = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
    base = sum(offset * stride for offset, stride in zip(box.offsets, strides, strict=True))
    places = np.array([base], np.uint64)
    for size, stride in zip(box.sizes[:axis], strides[:axis], strict=True):
        steps = np.arange(size, dtype=np.uint64) * np.uint64(stride)
        places = (places[:, None] + steps).reshape(-1)
    return places, _bits(box.tensor).reshape(len(places), -1)


def _blocks(
    places: NDArray[np.uint64], values: NDArray[Any]
) -> Iterator[tuple[NDArray[np.uint64], NDArray[Any]]]:
    """Cut runs into blocks of at most ``BLOCK`` elements: rows together, or parts of one."""
    runs, length = values.shape
    width = min(length, BLOCK)
    height = BLOCK // width
    for row in range(0, runs, height):
        for column in range(0, length, width):
            block = values[row : row + height, column : column + width]
            yield places[row : row + height] + np.uint64(column), block


def _bits(tensor: Tensor) -> NDArray[Any]:
    # Bits and not values: a NaN is a value like any other here, and -0.0 is not 0.0.
    host = tensor.detach().cpu().contiguous()
    size = host.element_size()
    return host.view(INT[size]).numpy().view(UINT[size])
