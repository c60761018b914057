"""Loss in chunks, and blocks made again, over the families: as with whole logits."""

import pytest
import torch

from distrain.config.tasks import IGNORE_INDEX
from distrain.config.training import LossConfig
from distrain.parallel.recomputation import recompute_blocks
from tests.distrain.models.transformers.families import EXPERTS, FAMILIES, VOCAB_SIZE, bent

FAST = ("gemma2", "granite")  # a soft cap, a scale
NAMES = [
    name if name in FAST else pytest.param(name, marks=pytest.mark.models) for name in FAMILIES
]


def results(name, dtype, chunk_tokens, *, recomputed=False, **terms):
    model = bent(name).to(dtype).train()
    model.output_layer.loss = LossConfig(chunk_tokens=chunk_tokens, **terms)
    if recomputed:
        recompute_blocks(model, model.block_classes, 1)
    dice = torch.Generator().manual_seed(3)
    ids = torch.randint(VOCAB_SIZE, (2, 24), generator=dice)
    targets = ids.roll(-1, 1).masked_fill(torch.rand(2, 24, generator=dice) < 0.3, IGNORE_INDEX)
    torch.manual_seed(1)
    loss = model(ids, target_ids=targets, rows=(2,)).sum() / 32
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def gap(found, expected):
    """Relative difference of losses, and of gradients over the norm of all of them."""
    (loss, gradients), (wanted, others) = found, expected
    assert gradients.keys() == others.keys()
    norm = torch.stack([g.norm() for g in others.values()]).norm()
    different = torch.stack([(gradients[name] - others[name]).norm() for name in others]).norm()
    return float((loss - wanted).abs() / wanted.abs()), float(different / norm)


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_those_of_whole_logits(name):
    terms = {"z_loss": 0.01, "label_smoothing": 0.1}
    whole = results(name, torch.float32, None, **terms)
    loss, gradients = gap(results(name, torch.float32, 7, **terms), whole)
    assert loss < 1e-6
    assert gradients < 1e-5
    # Control: another coefficient is seen.
    assert max(gap(results(name, torch.float32, 7, **terms | {"z_loss": 0.011}), whole)) > 3e-5
    if name not in EXPERTS:  # torch has no grouped products in float64
        whole = results(name, torch.float64, None, **terms)
        assert max(gap(results(name, torch.float64, 7, **terms), whole)) < 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_blocks_made_again_change_no_bit(name):
    loss, gradients = results(name, torch.float32, None)
    again, found = results(name, torch.float32, None, recomputed=True)
    assert again.equal(loss)
    assert all(found[name].equal(gradients[name]) for name in gradients)
