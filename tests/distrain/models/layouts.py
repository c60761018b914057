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
