"""Which documents lie in the rows of a microbatch.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from distrain.models.attention.columns import Columns


@dataclass(frozen=True)
class DocumentLayout:
    """Which documents lie in the rows of a microbatch, and where.

    Made of integers: what engines do with a forward pass's inputs leaves them as they are.

    Args:
        cu_seqlens: Where each document begins in the rows laid end to end, and where the last one
            ends, as FlashAttention's varlen functions take it; shape (documents + 1,), integer.
            Each row begins a document, so that none is longer than T; padding is one too.
        position_ids: Of each token that is here, in its document; shape (B, T), integer.
        lengths: Tokens of each document, on the host, so that kernels are chosen without waiting
            for a device. Empty: read from ``cu_seqlens``, which waits if that is on a device.
        columns: Which part of the rows is here; the other fields but ``position_ids`` describe the
            whole rows all the same. ``None``: all of them.
    """

    cu_seqlens: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...] = ()
    columns: Columns | None = None

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


def in_columns(documents: DocumentLayout, columns: Columns) -> DocumentLayout:
    """Return the layout of the part of the rows that lies in ``columns``.

    Where whole rows were padded so that they can be cut evenly, the padding of a row is a document
    of its own: nothing that counts attends to it.

    Args:
        documents: Of whole rows, (B, S) or less.
        columns: Of them.
    """
    rows, length = documents.position_ids.shape
    position_ids, cu_seqlens, lengths = (
        documents.position_ids,
        documents.cu_seqlens,
        documents.lengths,
    )
    padding = columns.row_length - length
    if padding:
        ends = accumulate(lengths)
        lengths = tuple(
            part
            for own, end in zip(lengths, ends, strict=True)
            for part in ((own,) if end % length else (own, padding))
        )
        starts = torch.tensor([0, *accumulate(lengths)], dtype=cu_seqlens.dtype)
        cu_seqlens = starts.to(cu_seqlens.device, non_blocking=True)
        behind = torch.arange(padding, device=position_ids.device, dtype=position_ids.dtype)
        position_ids = torch.cat([position_ids, behind.expand(rows, padding)], dim=1)
    return DocumentLayout(cu_seqlens, columns.of(position_ids), lengths, columns)


def document_starts(documents: DocumentLayout) -> Tensor:
    """Return the column in which the document of each token begins; (B, T) of whole rows, host."""
    rows = len(documents.position_ids)
    lengths = torch.tensor(documents.lengths)
    begins = (lengths.cumsum(0) - lengths).repeat_interleave(lengths).view(rows, -1)
    return begins % begins.shape[1]
