from dataclasses import replace

import torch

from distrain.models.attention import DocumentLayout, undivided
from tests.distrain.models.layouts import layout_of, layout_of_lengths

LENGTHS = ((5, 1, 9), (15,), (2, 13))


def test_the_host_knows_how_long_documents_are():
    assert layout_of_lengths(LENGTHS).lengths == (5, 1, 9, 15, 2, 13)
    assert undivided(torch.zeros(2, 4)).lengths == (4, 4)
    assert undivided(torch.zeros(2, 4)).cu_seqlens.tolist() == [0, 4, 8]
    assert undivided(torch.zeros(2, 4)).position_ids.tolist() == [[0, 1, 2, 3]] * 2


def test_lengths_that_are_not_given_are_read():
    documents = layout_of(torch.tensor([[0] * 8, [1] * 4 + [2] * 4]))
    assert documents.lengths == (8, 4, 4)
    assert not documents.has_one_document_a_row
    assert layout_of(torch.tensor([[0] * 8, [1] * 8])).has_one_document_a_row


def test_a_layout_survives_what_engines_do_with_inputs():
    """FSDP2 rebuilds dataclasses and casts what is of floating point; integers stay."""
    from torch.distributed.utils import _apply_to_tensors

    documents = layout_of_lengths(LENGTHS)
    cast = _apply_to_tensors(lambda x: x.bfloat16() if x.is_floating_point() else x, documents)
    assert isinstance(cast, DocumentLayout)
    assert cast.cu_seqlens is documents.cu_seqlens
    assert cast.position_ids is documents.position_ids
    assert cast.lengths == documents.lengths
    with_floats = replace(documents, position_ids=documents.position_ids.double())
    cast = _apply_to_tensors(lambda x: x.bfloat16() if x.is_floating_point() else x, with_floats)
    assert cast.position_ids.dtype == torch.bfloat16  # so positions must not be fractions
