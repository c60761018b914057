"""Scores of continuations do not depend on how they are put together, and are those of logits."""

import pytest
import torch

from distrain.config.models import LlamaConfig
from distrain.evaluation.harness.scoring import Continuation, Scorer
from distrain.models.init import initialize
from distrain.models.llama import Llama

VOCABULARY, POSITIONS = 31, 12


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        dropout=0.5,
    )
    model = Llama(config, VOCABULARY)
    initialize(model, seed=0)
    for parameter in model.parameters():
        parameter.data *= 4
    return model.train()


def asked():
    generator = torch.Generator().manual_seed(0)
    lengths = [(1, 1), (3, 2), (9, 4), (20, 3), (2, 1)]
    return [
        Continuation(*(torch.randint(VOCABULARY, (n,), generator=generator).tolist() for n in pair))
        for pair in lengths
    ]


@torch.no_grad()
def by_logits(model, each):
    ids = [*each.context, *each.ids][-(POSITIONS + 1) :]
    model.eval()
    scores = model(torch.tensor([ids[:-1]]))[0, -len(each.ids) :].log_softmax(-1)
    model.train()
    wanted = torch.tensor(each.ids)
    found = scores.gather(1, wanted.unsqueeze(1)).sum().item()
    return found, bool((scores.argmax(-1) == wanted).all())


@pytest.mark.parametrize("batch_tokens", [1, 8, 1000])
def test_however_they_are_batched(model, batch_tokens):
    likeliest = Continuation([1, 2], [int(model.eval()(torch.tensor([[1, 2]]))[0, -1].argmax())])
    model.train()
    texts = [*asked(), likeliest]
    found = Scorer(model, torch.device("cpu"), POSITIONS, batch_tokens).score(texts)
    expected = [by_logits(model, each) for each in texts]
    assert [score for score, _ in found] == pytest.approx([s for s, _ in expected], abs=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert found[-1][1]
    assert not all(greedy for _, greedy in found)
    assert model.training
