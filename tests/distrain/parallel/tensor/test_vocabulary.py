"""The loss of an output layer whose tokens are divided among ranks, against that of one process."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from distrain.config.tasks import IGNORE_INDEX
from distrain.config.training import LossConfig
from distrain.models.output_layer import OutputLayer
from distrain.parallel.tensor.peers import TensorPeers
from distrain.parallel.tensor.vocabulary import TensorVocabulary
from tests.ranks import run_ranks

B, T, D, V = 3, 8, 6, 37
LOSSES = {
    "plain": LossConfig(),
    "chunks": LossConfig(chunk_tokens=5),
    "terms": LossConfig(chunk_tokens=7, label_smoothing=0.1, z_loss=0.2),
}


def inputs():
    dice = torch.Generator().manual_seed(3)
    hidden = torch.randn(B, T, D, dtype=torch.float64, generator=dice)
    weight = torch.randn(V, D, dtype=torch.float64, generator=dice)
    bias = torch.randn(V, dtype=torch.float64, generator=dice)
    targets = torch.randint(V, (B, T), generator=dice)
    targets[torch.rand(B, T, generator=dice) < 0.3] = IGNORE_INDEX
    bias[[3, V - 1]] += 4  # so that targets are hit, and in the last part, too
    return hidden, weight, bias, targets


def measured(loss, rows, vocabulary=None, *, peers=None):
    """Losses and hits, logits, and gradients of hidden states and of the columns here."""
    hidden, weight, bias, targets = inputs()
    layer = OutputLayer(D, V, bias=True, scale=2.0, softcap=3.0)
    layer.loss, layer.vocabulary = loss, vocabulary
    columns = slice(None) if vocabulary is None else slice(vocabulary.start, vocabulary.stop)
    layer.weight = torch.nn.Parameter(weight[columns].clone())
    layer.bias = torch.nn.Parameter(bias[columns].clone())
    hidden.requires_grad_()
    given = hidden if peers is None else peers.copied(hidden)
    found = layer(given, targets, rows, with_hits=True)
    losses = found[0]
    factors = torch.linspace(-1, 2, losses.numel(), dtype=losses.dtype).view(losses.shape)
    (losses * factors).sum().backward()
    gradients = hidden.grad, layer.weight.grad, layer.bias.grad
    with torch.no_grad():
        logits = layer.eval()(hidden)
    return found.detach(), logits, gradients, columns


def compare(size, spoiled):
    peers = TensorPeers(init_device_mesh("cpu", (size,)))
    part = TensorVocabulary(peers, V)
    for loss in LOSSES.values():
        for rows in (None, (3,), (2, 0, 1)):
            found, logits, (of_hidden, *of_rows), columns = measured(loss, rows, part, peers=peers)
            expected, whole_logits, (whole, *wholes), _ = measured(loss, rows)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
            assert found[1].equal(expected[1])
            assert found[1].any()
            torch.testing.assert_close(logits, whole_logits, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(of_hidden, whole, rtol=1e-11, atol=1e-12)
            for own, every in zip(of_rows, wholes, strict=True):
                torch.testing.assert_close(own, every[columns], rtol=1e-11, atol=1e-12)
    if spoiled:  # tokens that begin one too late: their losses are seen to differ
        late = type("Late", (TensorVocabulary,), {"start": part.start + 1})(peers, V)
        found, *_ = measured(LOSSES["chunks"], (3,), late, peers=peers)
        assert not torch.allclose(found[0], measured(LOSSES["chunks"], (3,))[0][0], rtol=1e-3)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.axes)])
def test_losses_hits_logits_and_gradients_are_those_of_the_whole_vocabulary(tmp_path, size):
    run_ranks(tmp_path, size, compare, size, size == 2)
