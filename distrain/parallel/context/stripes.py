"""Which columns of the rows each rank holds: every so-manieth stripe of a few columns.

Stripes, because of a row of many documents each rank then holds the early, cheap positions as well
as the late ones of each: cut into plain slices, the rank with the most pairs of queries and keys
has 1.4 times as many as the mean of 4 ranks.

Shape legend: B = rows, S = columns of a whole row, T = those of a rank, C = columns of a stripe.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

STRIPE = 8
"""Columns of a stripe."""


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
        """Undo ``joined``; the parts are contiguous."""
        striped = whole.unflatten(-2, (-1, self.num_ranks, self.width))
        parts: Tensor = striped.movedim(-3, 0).flatten(-3, -2).contiguous()
        return parts

    def owner(self, columns: Tensor) -> Tensor:
        """Return the place of the rank that holds each of some columns."""
        return columns // self.width % self.num_ranks

    def place_within(self, columns: Tensor) -> Tensor:
        """Return where each of some columns lies among those of its rank."""
        size = self.num_ranks * self.width
        return columns // size * self.width + columns % self.width

    def of_tokens(self, x_N: Tensor | None, rows: int, length: int, padding: bool) -> Tensor:
        """Cut what whole rows laid end to end have for each token; shape (B * T,).

        Args:
            x_N: Booleans, shape (B * S,); ``None``: all true.
            rows: B.
            length: S, before rows are padded.
            padding: What padded columns have.
        """
        whole = torch.ones(rows * length, dtype=torch.bool) if x_N is None else x_N
        x_BS = whole.view(rows, length)
        more = self.row_length(length) - length
        padded = torch.nn.functional.pad(x_BS, (0, more), value=padding)
        return padded[:, self.numbers(self.row_length(length)).to(padded.device)].flatten()
