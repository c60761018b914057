"""A document has the frequencies of its own length, whatever lies beside it."""

import pytest
import torch

from distrain.config.models.transformers import TransformersConfig
from distrain.models import build_model
from distrain.models.attention import DocumentLayout
from distrain.models.init import initialize
from distrain.models.transformers import model as transformers_model
from distrain.models.transformers.long_rope import is_in_longer_document
from tests.distrain.models.transformers.families import SIZES

SHORT_CONTEXT = 16
ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": SHORT_CONTEXT,
}
SECTION = TransformersConfig(
    model_type="phi3",
    config={
        **SIZES,
        "initializer_range": 0.3,
        "original_max_position_embeddings": SHORT_CONTEXT,
        "rope_parameters": ROPE,
    },
)


def scores(lengths):
    """Of documents that begin with the same tokens, in a row; shape (V,) a token."""
    model = build_model(SECTION.completed(), 61)
    initialize(model, seed=1)
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    ids = torch.arange(positions.numel()).unsqueeze(0) * 5 % 61
    with torch.no_grad():
        return model.eval()(ids, documents=DocumentLayout(ends, positions))[0]


def test_a_long_neighbour_moves_no_score_and_length_counts():
    alone, beside = scores([12, 12]), scores([12, 20])
    assert alone[:12].equal(beside[:12])
    # What transformers makes of a long document alone.
    long = scores([20, 12])
    assert not torch.allclose(long[:12], alone[:12], atol=1e-2)
    assert torch.allclose(long[:20], scores([20])[:20], atol=1e-5)


def test_without_it_a_long_neighbour_moves_them(monkeypatch):
    monkeypatch.setattr(transformers_model, "choose_frequencies_by_document", lambda family: None)
    assert not torch.allclose(scores([12, 12])[:12], scores([12, 20])[:12], atol=1e-2)


@pytest.mark.parametrize("length", [3, 4])
def test_documents_longer_than_a_length_are_found(length):
    positions = torch.tensor([[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2]])
    expected = torch.zeros(2, 6, dtype=torch.bool)
    expected[0, :4] = length < 4
    assert is_in_longer_document(positions, length).equal(expected)
