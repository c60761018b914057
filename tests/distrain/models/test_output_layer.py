import pytest
import torch
from torch import nn

from distrain.config.tasks import IGNORE_INDEX
from distrain.config.training import LossConfig
from distrain.loss import target_losses
from distrain.models.output_layer import OutputLayer


def test_a_plain_layer_becomes_one_with_its_very_parameters():
    linear = nn.Linear(6, 11)
    layer = OutputLayer.of(linear, scale=0.5, softcap=2.0)
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    assert OutputLayer.of(nn.Linear(6, 11, bias=False)).bias is None
    hidden = 9 * torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    logits = layer(hidden)
    torch.testing.assert_close(logits, 2 * torch.tanh(linear(hidden) * 0.5 / 2))
    assert (logits - linear(hidden)).abs().max() > 0.5  # the settings act


@pytest.mark.parametrize("rows", [None, (2, 1)])
def test_losses_are_those_of_the_logits(rows):
    generator = torch.Generator().manual_seed(2)
    layer = OutputLayer(6, 11, bias=True, scale=3.0, softcap=5.0)
    hidden = torch.randn(3, 4, 6, generator=generator)
    targets = torch.randint(11, (3, 4), generator=generator)
    assert layer(hidden, targets, rows).equal(target_losses(layer(hidden), targets, rows))


@pytest.mark.parametrize("rows", [None, (2, 1)])
@pytest.mark.parametrize("chunk_tokens", [None, 5])
def test_hits_are_targets_with_the_highest_score(rows, chunk_tokens):
    generator = torch.Generator().manual_seed(2)
    layer = OutputLayer(6, 3, bias=True, scale=3.0, softcap=5.0).eval()
    layer.loss = LossConfig(chunk_tokens=chunk_tokens)
    hidden = torch.randn(3, 4, 6, generator=generator)
    targets = torch.randint(3, (3, 4), generator=generator)
    targets[0, 1] = IGNORE_INDEX
    with torch.no_grad():
        losses, hits = layer(hidden, targets, rows, with_hits=True)
        assert losses.equal(layer(hidden, targets, rows))
        expected = (layer(hidden).argmax(-1) == targets).float()
    expected = expected if rows is None else torch.stack([g.sum() for g in expected.split(rows)])
    assert hits.equal(expected)
    assert 0 < hits.sum() < (targets != IGNORE_INDEX).sum()
