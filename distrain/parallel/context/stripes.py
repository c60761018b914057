"""Which columns of the rows each rank holds: stripes of a few, which the ranks take in turn.

Stripes, because of a row of many documents each rank then holds the early, cheap positions as well
as the late ones of each: cut into plain slices, the rank with the most pairs of queries and keys
has 1.4 times as many as the mean of 4 ranks.

Shape legend: B = rows, S = columns of a whole row, T = those of a rank, C = columns of a stripe.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distrain.config.layout import STRIPE
from distrain.parallel.ranks import Ranks


@dataclass(frozen=True)
class Stripes:
    """How rows are cut, and this rank's place in it; a pure function of three numbers.

    Args:
        num_ranks: That share the columns of a row.
        place: Of this rank among them.
        width: Columns of a stripe, C.
    """

    num_ranks: int
    place: int
    width: int = STRIPE

    def row_length(self, length: int) -> int:
        """Return to how many columns a row of ``length`` is padded: all ranks hold as many."""
        size = self.num_ranks * self.width
        return -(-length // size) * size

    def numbers(self, row_length: int) -> Tensor:
        """Return the columns of this rank, ascending; shape (T,), int64, on the host."""
        stripes = torch.arange(row_length).view(-1, self.num_ranks, self.width)
        return stripes[:, self.place].flatten()

    def joined(self, parts: Tensor) -> Tensor:
        """Put the parts of all ranks in the order of the columns.

        Args:
            parts: In the order of the ranks, shape (ranks, ..., T, H).

        Returns:
            Shape (..., S, H).
        """
        striped = parts.unflatten(-2, (-1, self.width))  # (ranks, ..., T / C, C, H)
        joined: Tensor = striped.movedim(0, -3).flatten(-4, -2)
        return joined

    def parted(self, whole: Tensor) -> Tensor:
        """Undo ``joined``."""
        striped = whole.unflatten(-2, (-1, self.num_ranks, self.width))
        parts: Tensor = striped.movedim(-3, 0).flatten(-3, -2)
        return parts

    def owner(self, columns: Tensor) -> Tensor:
        """Return the place of the rank that holds each of some columns."""
        return columns // self.width % self.num_ranks

    def place_within(self, columns: Tensor) -> Tensor:
        """Return where each of some columns lies among those of its rank."""
        size = self.num_ranks * self.width
        return columns // size * self.width + columns % self.width

    def of_tokens(self, mask_N: Tensor | None, rows: int, length: int) -> Tensor:
        """Cut a mask over whole rows laid end to end; padded columns are false. Shape (B * T,).

        Args:
            mask_N: Shape (B * S,), S before rows are padded, on the host; ``None``: all true.
            rows: B.
            length: S.
        """
        whole = torch.ones(rows * length, dtype=torch.bool) if mask_N is None else mask_N
        row_length = self.row_length(length)
        padded = F.pad(whole.view(rows, length), (0, row_length - length), value=False)
        return padded[:, self.numbers(row_length)].flatten()


def stripes_of(ranks: Ranks) -> Stripes | None:
    """Return how a layout cuts rows, and this rank's place in it; ``None``: it does not."""
    size = ranks.layout.size("context")
    return Stripes(size, ranks.place["context"]) if size > 1 else None
