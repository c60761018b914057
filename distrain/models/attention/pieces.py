"""Rows cut into their documents, and put together again.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, R = tokens of all rows, K =
heads, H = size of a head, G = documents side by side, L = length that those are padded to.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

LONG = 128
"""A document of so many tokens is worth a call of its own; shorter ones share calls."""


def padded_length(length: int) -> int:
    """Return the power of two that a short document is padded to.

    Of the document alone, so that it is computed the same way whatever lies beside it.
    """
    return max(8, 1 << (length - 1).bit_length())


class DocumentPieces:
    """How rows laid end to end become pieces (G, K, L, H), whose documents begin at place 0.

    Long documents are views, one a piece. Short ones are gathered, those of the same padded
    length side by side. What they are padded with lies behind them, where causality hides it, and
    is their own first token, so that nothing of a neighbour is ever computed with.

    Args:
        lengths: Of the documents, in the order of the rows.
        device: Of the tensors that are to be cut.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._runs: list[int] = []
        """Tokens of each long document, and of all short ones between two long ones."""
        self._long: list[int] = []
        """Which of the runs are long documents."""
        short: dict[int, list[tuple[int, int]]] = {}
        last_is_long = True
        for start, length in zip(accumulate(lengths, initial=0), lengths, strict=False):
            if length >= LONG:
                self._long.append(len(self._runs))
                self._runs.append(length)
            else:
                short.setdefault(padded_length(length), []).append((start, length))
                if last_is_long:
                    self._runs.append(0)
                self._runs[-1] += length
            last_is_long = length >= LONG
        self._groups = [(len(group), padded) for padded, group in sorted(short.items())]
        self._gather: Tensor | None = None
        """Token of each place of the padded short documents."""
        self._place: Tensor | None = None
        """Place of each token in the pieces laid end to end; ``None``: its own."""
        if short:
            self._gather, self._place = self._indices(short, device)

    def _indices(
        self, short: dict[int, list[tuple[int, int]]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        place = torch.empty(sum(self._runs), dtype=torch.int64)
        taken = 0
        starts = list(accumulate(self._runs, initial=0))
        for run in self._long:
            place[starts[run] : starts[run + 1]] = torch.arange(taken, taken + self._runs[run])
            taken += self._runs[run]
        gathered = []
        for padded, group in sorted(short.items()):
            begins, lengths = torch.tensor(group).unsqueeze(-1).unbind(1)
            offsets = torch.arange(padded)
            is_token = offsets < lengths
            tokens = begins + offsets * is_token
            places = taken + torch.arange(tokens.numel()).view_as(tokens)
            place[tokens[is_token]] = places[is_token]
            taken += tokens.numel()
            gathered.append(tokens.flatten())
        return _to_device(torch.cat(gathered), device), _to_device(place, device)

    def cut(self, x_BKTH: Tensor) -> list[Tensor]:
        """Return the pieces, each of shape (G, K, L, H)."""
        # A view, where heads and positions are only seen in another order.
        flat_RKH = x_BKTH.transpose(1, 2).flatten(0, 1)
        pieces: list[Tensor] = []
        if self._long:
            # Not by slices, whose backward pass would fill a tensor of the whole size for each.
            runs = flat_RKH.split(self._runs)
            pieces += [runs[run].unsqueeze(0) for run in self._long]
        if self._gather is not None:
            sizes = [count * padded for count, padded in self._groups]
            groups = flat_RKH.index_select(0, self._gather).split(sizes)
            pieces += [
                group.unflatten(0, shape) for group, shape in zip(groups, self._groups, strict=True)
            ]
        return [piece.transpose(1, 2) for piece in pieces]

    def join(self, pieces: Sequence[Tensor], rows: int) -> Tensor:
        """Undo ``cut``; shape (B, K, T, H), B being ``rows``."""
        flat_RKH = torch.cat([piece.transpose(1, 2).flatten(0, 1) for piece in pieces])
        if self._place is not None:
            flat_RKH = flat_RKH.index_select(0, self._place)
        joined_BTKH: Tensor = flat_RKH.unflatten(0, (rows, -1))
        return joined_BTKH.transpose(1, 2)


def _to_device(index: Tensor, device: torch.device) -> Tensor:
    # From pinned memory the copy does not wait for what the device is doing.
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index
