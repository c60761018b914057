"""Rules of initial values, and how any part of a parameter is drawn by itself.

A parameter is drawn in blocks of ``BLOCK_ELEMENTS`` in row-major order, each from a generator of
its own. So a rank draws the blocks that its part touches, at the cost of that part, and finds the
values that one process would find.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

VALUES_VERSION = 2
"""Of what (seed, name, rule) gives. 1, until 0.1.0, drew each parameter whole; a stage that has a
checkpoint draws nothing, so runs of then go on."""
BLOCK_ELEMENTS = 1 << 14


class ValueRule(Protocol):
    """What the elements of one parameter start from, independently of each other."""

    def draw(self, generator: torch.Generator, start: int) -> Tensor:
        """Make one block.

        Args:
            generator: Of the block; the only source of chance.
            start: Row-major index of the block's first element.

        Returns:
            Shape (``BLOCK_ELEMENTS``,), float32, on the CPU; what lies past the parameter's end
            is not looked at.
        """


@dataclass(frozen=True)
class Constant:
    """One number."""

    value: float

    def draw(self, generator: torch.Generator, start: int) -> Tensor:
        """Make one block."""
        del generator, start
        return torch.full((BLOCK_ELEMENTS,), self.value, dtype=torch.float32)


@dataclass(frozen=True)
class Normal:
    """Normally distributed."""

    std: float
    mean: float = 0.0

    def draw(self, generator: torch.Generator, start: int) -> Tensor:
        """Make one block."""
        del start
        block = torch.randn(BLOCK_ELEMENTS, generator=generator, dtype=torch.float32)
        return block.mul_(self.std).add_(self.mean)


@dataclass(frozen=True)
class TruncatedNormal:
    """Normally distributed, nothing outside of ``low`` and ``high``."""

    std: float
    low: float
    high: float
    mean: float = 0.0

    def draw(self, generator: torch.Generator, start: int) -> Tensor:
        """Make one block."""
        del start
        block = torch.empty(BLOCK_ELEMENTS, dtype=torch.float32)
        return nn.init.trunc_normal_(
            block, self.mean, self.std, self.low, self.high, generator=generator
        )


@dataclass(frozen=True)
class Uniform:
    """Uniformly distributed over [low, high)."""

    low: float
    high: float

    def draw(self, generator: torch.Generator, start: int) -> Tensor:
        """Make one block."""
        del start
        block = torch.empty(BLOCK_ELEMENTS, dtype=torch.float32)
        return block.uniform_(self.low, self.high, generator=generator)


@dataclass(frozen=True, eq=False)
class Given:
    """Values that a family computes, such as a table.

    Args:
        values: Of the whole parameter.
    """

    values: Tensor

    def draw(self, generator: torch.Generator, start: int) -> Tensor:
        """Cut one block out."""
        del generator
        part = self.values.flatten()[start : start + BLOCK_ELEMENTS]
        block = torch.zeros(BLOCK_ELEMENTS, dtype=torch.float32)
        block[: part.numel()] = part
        return block


@dataclass(frozen=True)
class Overwritten:
    """A rule, then another in one row-major range, such as the row of the padding token.

    Args:
        first: For all elements.
        then: For those of ``start`` to ``stop``.
        start: Row-major index of the first one.
        stop: Of the one after the last.
    """

    first: ValueRule
    then: ValueRule
    start: int
    stop: int

    def draw(self, generator: torch.Generator, start: int) -> Tensor:
        """Make one block."""
        block = self.first.draw(generator, start)
        begin = min(max(self.start - start, 0), BLOCK_ELEMENTS)
        end = min(max(self.stop - start, 0), BLOCK_ELEMENTS)
        block[begin:end] = self.then.draw(generator, start)[begin:end]
        return block


def scaled(rule: ValueRule, factor: float) -> ValueRule:
    """Return a rule whose values are ``factor`` times as large; a constant or table stays."""
    match rule:
        case Normal(std, mean):
            return Normal(std * factor, mean * factor)
        case TruncatedNormal(std, low, high, mean):
            return TruncatedNormal(std * factor, low * factor, high * factor, mean * factor)
        case Uniform(low, high):
            return Uniform(low * factor, high * factor)
        case Overwritten(first, then, start, stop):
            return Overwritten(scaled(first, factor), then, start, stop)
        case _:
            return rule


def fill_part(
    part: Tensor, rule: ValueRule, key: str, shape: Sequence[int], offsets: Sequence[int]
) -> None:
    """Set a rectangular part of a parameter to its initial values, in place.

    Args:
        part: What this rank holds; any dtype and device.
        rule: Of the parameter.
        key: Names the parameter and the seed.
        shape: Of the whole parameter.
        offsets: Where the part begins in it, one number an axis.
    """
    if part.numel() == 0:
        return
    if part.ndim == 0:
        part.copy_(next(_blocks(rule, key, 0, 1))[1][0])
        return
    row = math.prod(shape[1:])
    start = offsets[0] * row
    if tuple(part.shape[1:]) == tuple(shape[1:]) and part.is_contiguous():
        flat = part.view(-1)
        for first, values in _blocks(rule, key, start, start + part.numel()):
            flat[first - start : first - start + len(values)] = values.to(part.device)
        return
    # Cut along a later axis: a row at a time is drawn, and the rest of it thrown away.
    inner = tuple(
        slice(offset, offset + size)
        for offset, size in zip(offsets[1:], part.shape[1:], strict=True)
    )
    for index in range(len(part)):
        begin = start + index * row
        drawn = torch.cat([values for _, values in _blocks(rule, key, begin, begin + row)])
        part[index] = drawn.view(tuple(shape[1:]))[inner].to(part.device, part.dtype)


def _blocks(rule: ValueRule, key: str, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the values of ``start`` to ``stop`` in pieces: (index of the first, values)."""
    for number in range(start // BLOCK_ELEMENTS, -(-stop // BLOCK_ELEMENTS)):
        first = number * BLOCK_ELEMENTS
        values = rule.draw(keyed_generator(f"{key}/{number}"), first)
        begin, end = max(start, first), min(stop, first + BLOCK_ELEMENTS)
        yield begin, values[begin - first : end - first]


def keyed_generator(key: str) -> torch.Generator:
    """Make a generator that ``key`` alone decides, on the CPU, where any machine repeats it."""
    digest = hashlib.sha256(key.encode()).digest()
    # Shifted, as a seed of torch is a signed 64-bit number.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
