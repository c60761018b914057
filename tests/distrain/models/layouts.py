"""Layouts of documents for tests, from the document of each token."""

import torch

from distrain.models.attention import DocumentLayout


def layout_of(document_ids, position_ids=None):
    """Make the layout of rows whose tokens have these documents, (B, T); each row begins one."""
    rows, length = document_ids.shape
    changes = document_ids[:, 1:] != document_ids[:, :-1]
    starts = torch.cat([torch.ones(rows, 1, dtype=torch.bool), changes], dim=1).flatten()
    cu_seqlens = torch.cat([starts.nonzero().flatten(), torch.tensor([rows * length])])
    if position_ids is None:
        position_ids = torch.arange(length).expand(rows, length)
    return DocumentLayout(cu_seqlens.int(), position_ids)


def layout_of_lengths(rows):
    """Make the layout of rows that hold documents of these lengths."""
    lengths = [length for row in rows for length in row]
    positions = [torch.cat([torch.arange(length) for length in row]) for row in rows]
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    return DocumentLayout(cu_seqlens, torch.stack(positions), tuple(lengths))


def document_mask(documents):
    """Return which positions are of the document of each position; (B, 1, 1, T, T), bool."""
    numbers = torch.arange(len(documents.lengths))
    ids = numbers.repeat_interleave(torch.tensor(documents.lengths))
    ids = ids.view_as(documents.position_ids)[:, None, None]
    return ids.unsqueeze(-1) == ids.unsqueeze(-2)
