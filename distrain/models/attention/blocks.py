"""Queries in blocks, each with the keys that it can see: scores of all at once are never held."""

from collections.abc import Iterator

import torch
from torch import Tensor


def query_blocks(
    num_queries: int, num_keys: int, window: int | None, size: int
) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of at most ``size`` queries, and the keys from the first seen to the last.

    Queries are the last of the key positions. No key outside of block and window is in a slice.
    """
    for start in range(0, num_queries, size):
        stop = min(start + size, num_queries)
        before = num_keys - num_queries
        first = 0 if window is None else max(0, before + start - window + 1)
        yield slice(start, stop), slice(first, before + stop)


def seen_keys(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    """Return which of the keys each of the last queries sees; shape (queries, keys), bool."""
    queries = torch.arange(num_keys - num_queries, num_keys, device=device).unsqueeze(1)
    keys = torch.arange(num_keys, device=device)
    seen = keys <= queries
    return seen if window is None else seen & (keys > queries - window)
