import pytest
import torch
from torch import nn

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
