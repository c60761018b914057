"""Generation with kept keys and values computes what the whole text would give."""

import pytest
import torch

from distrain.config.models import LlamaConfig
from distrain.evaluation.generation import Sampling, sample
from distrain.models.causal_lm import CausalLM
from distrain.models.init import initialize
from distrain.models.key_value_cache import GrowingTensor, KeyValueCache
from distrain.models.llama import Llama


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
        initializer_range=0.3,
    )
    llama = Llama(config, 90)
    initialize(llama, seed=0)
    return llama.eval()


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(5,), (5, 1), (1, 1, 1, 1), (3, 4, 1)])
def test_scores_are_those_of_the_whole_text(model, cuts):
    ids = torch.randint(0, 90, (2, sum(cuts)), generator=torch.Generator().manual_seed(1))
    cache, at = KeyValueCache(), 0
    for count in cuts:
        scores = model.next_scores(ids[:, at : at + count], cache)
        at += count
        whole = model(ids[:, :at])[:, -1]
        torch.testing.assert_close(scores, whole, rtol=0, atol=2e-5)
    assert cache.length == ids.shape[1]


@torch.no_grad()
def test_what_was_seen_matters(model):
    """The control: without the cache, the last token alone gives other scores."""
    ids = torch.tensor([[3, 4, 5, 6]])
    alone = model.next_scores(ids[:, -1:], KeyValueCache())
    assert (alone - model(ids)[:, -1]).abs().max() > 1e-2


@torch.no_grad()
def test_a_family_that_keeps_none_gives_the_same(model, monkeypatch):
    monkeypatch.setattr(Llama, "next_hidden_states", CausalLM.next_hidden_states)
    cache, ids = KeyValueCache(), torch.tensor([[3, 4, 5, 6]])
    model.next_scores(ids[:, :3], cache)
    scores = model.next_scores(ids[:, 3:], cache)
    torch.testing.assert_close(scores, model(ids)[:, -1])


@torch.no_grad()
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(2.0, 1.3, seed=3)], ids=str)
def test_tokens_are_those_without_a_cache_also_beyond_the_context(model, sampling, monkeypatch):
    def tokens() -> list[int]:
        drawn = sample(model, [1, 2, 3], sampling)
        return [next(drawn) for _ in range(40)]  # the context ends after 21 of them

    kept = tokens()
    monkeypatch.setattr(Llama, "next_hidden_states", CausalLM.next_hidden_states)
    assert kept == tokens()
    assert len(set(kept)) > 3


def test_room_grows_without_losing_what_is_there():
    grown = GrowingTensor(torch.arange(3).view(1, 1, 3, 1))
    for number in range(3, 20):
        grown.append(torch.full((1, 1, 1, 1), number))
    assert grown.filled.flatten().tolist() == list(range(20))
