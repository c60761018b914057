"""Which columns of the rows a rank holds, where rows are cut over ranks (context parallel).

Only attention looks beyond the columns that are here: it has the keys and values of all of them
brought together, and attends to them with its own queries. How they come together is given from
outside, so that models know nothing of ranks.

Shape legend: B = sequences in a microbatch, S = columns of a whole row, T = those here, K = key and
value heads, H = size of a key head, X = size of a value head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Pending = Callable[[], tuple[Tensor, Tensor]]
"""Waits for keys (B, K, S, H) and values (B, K, S, X) that are on their way, and returns them."""


class KeyValueGathering(Protocol):
    """Brings keys and values of all columns together."""

    def parts(self, num_kv_heads: int) -> int:
        """Say into how many groups heads are to be cut; it divides ``num_kv_heads``.

        While one group is attended with, the next ones are on their way.
        """

    def start(self, k_BKTH: Tensor, v_BKTX: Tensor) -> Pending:
        """Begin to gather those of the heads of one group, in the order of the columns.

        Gradients of what comes out are summed over all ranks that hold columns of these rows.
        Collective, backward pass included.
        """


@dataclass(frozen=True)
class Columns:
    """A part of the columns of all rows.

    Args:
        numbers: Of the columns that are here, ascending; shape (T,), int64, on the host.
        on_device: The same where the rows are.
        row_length: Columns of a whole row, S.
        gathering: Of keys and values.
    """

    numbers: Tensor
    on_device: Tensor
    row_length: int
    gathering: KeyValueGathering

    def of(self, x_BS: Tensor) -> Tensor:
        """Cut the columns that are here out of whole rows; shape (B, T)."""
        return x_BS.index_select(1, self.on_device)
