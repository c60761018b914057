"""Which documents lie in the rows of a microbatch.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class DocumentLayout:
    """Which documents lie in the rows of a microbatch, and where.

    Made of integers: what engines do with a forward pass's inputs leaves them as they are.

    Args:
        cu_seqlens: Where each document begins in the rows laid end to end, and where the last one
            ends, as FlashAttention's varlen functions take it; shape (documents + 1,), integer.
            Each row begins a document, so that none is longer than T; padding is one too.
        position_ids: Of each token in its document; shape (B, T), integer.
        lengths: Tokens of each document, on the host, so that kernels are chosen without waiting
            for a device. Empty: read from ``cu_seqlens``, which waits if that is on a device.
    """

    cu_seqlens: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.lengths:
            object.__setattr__(self, "lengths", tuple(self.cu_seqlens.diff().tolist()))

    @property
    def has_one_document_a_row(self) -> bool:
        """Whether the rows are not divided."""
        return len(self.lengths) == len(self.position_ids)


def undivided(input_ids: Tensor, first: int = 0) -> DocumentLayout:
    """Return the layout of rows that are one document each.

    Args:
        input_ids: Shape (B, T).
        first: Position of the rows' first tokens; those before it were seen in earlier calls.
    """
    rows, length = input_ids.shape
    starts = torch.arange(rows + 1, dtype=torch.int32, device=input_ids.device) * length
    positions = torch.arange(first, first + length, device=starts.device).expand(rows, length)
    return DocumentLayout(starts, positions, (length,) * rows)


def in_one_row(lengths: Sequence[int], device: torch.device) -> DocumentLayout:
    """Return the layout of documents of these lengths that lie in one row, without padding."""
    return DocumentLayout(
        torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device),
        torch.cat([torch.arange(n) for n in lengths]).to(device, torch.int32).unsqueeze(0),
        tuple(lengths),
    )
