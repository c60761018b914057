"""Forward passes over packed rows, asked for in every way, whole and over columns of ranks."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distrain.config.tasks import IGNORE_INDEX
from distrain.models.attention import DocumentLayout
from distrain.models.transformers.interface import register
from distrain.parallel.context.forward import cut_over
from distrain.parallel.context.stripes import Stripes
from tests.distrain.models.layouts import layout_of_lengths
from tests.distrain.models.transformers.families import EXPERTS, VOCAB_SIZE, bent

LENGTHS = ((5, 1, 60), (66,), (33, 20, 13))
"""Rows of 66 columns, which no number of stripes divides; documents cross the stripes."""


@dataclass(frozen=True)
class PackedBatch:
    input_ids: Tensor
    target_ids: Tensor
    documents: DocumentLayout


def packed_batch(lengths=LENGTHS) -> PackedBatch:
    documents = layout_of_lengths(lengths)
    dice = torch.Generator().manual_seed(3)
    ids = torch.randint(0, VOCAB_SIZE, documents.position_ids.shape, generator=dice)
    targets = ids.roll(-1, 1)
    targets[:, :-1][documents.position_ids[:, 1:] == 0] = IGNORE_INDEX
    targets[:, -1] = IGNORE_INDEX
    return PackedBatch(ids, targets, documents)


WAYS: dict[str, dict[str, Any]] = {
    "each": {},
    "groups": {"rows": (2, 1)},
    "one group": {"rows": (3,)},
    "places": {"places": torch.tensor([0, 3, 7, 40, 70, 71, 131, 150, 197])},
    "groups of places": {
        "places": torch.tensor([0, 3, 7, 40, 70, 71, 131, 150, 197]),
        "rows": (2, 0, 6, 1),
    },
    "places of one rank": {"places": torch.tensor([1, 3, 7, 67]), "rows": (3, 1)},
}
"""How losses are asked for."""


def losses_and_gradients(model, module, batch, **way):
    """Return losses, and the gradients of all parameters for a sum that weighs each otherwise."""
    model.zero_grad()
    losses = module(batch.input_ids, target_ids=batch.target_ids, documents=batch.documents, **way)
    weights = torch.linspace(1, 2, losses.numel(), dtype=losses.dtype).view_as(losses)
    (losses * weights).sum().backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [losses.detach(), *grads]


def summed(tensors):
    """Sum over all ranks, each tensor as it lies in memory."""
    tensors = [tensor.contiguous() for tensor in tensors]
    for tensor in tensors:
        dist.all_reduce(tensor)
    return tensors


def close(found, expected):
    """Norms and angles are taken in fp32, and products of experts: sums are in another order."""
    allowed = 1e-6 if found[0].dtype == torch.float64 else 1e-4
    return all(
        one.shape == other.shape and (one - other).abs().max() <= allowed * other.abs().max() + 1e-9
        for one, other in zip(found, expected, strict=True)
    )


def world():
    """The group of all ranks."""
    group = dist.group.WORLD
    assert group is not None
    return group


def model_of(family):
    """One whose sums are exact where its kernels can be."""
    return bent(family) if family in EXPERTS else bent(family).double()


def cut_model(family):
    """The same with its columns cut over all ranks."""
    model = model_of(family)
    cut_over_all(model)
    return model


def cut_over_all(model):
    """Cut the columns of a model's rows over all ranks."""
    return cut_over(model, world(), Stripes(dist.get_world_size(), dist.get_rank()))


def both(family, batch, **way):
    """Compute with one rank alone, and with the columns cut over all, summed over them."""
    whole, cut = model_of(family), cut_model(family)
    expected = losses_and_gradients(whole, whole, batch, **way)
    return summed(losses_and_gradients(cut, cut, batch, **way)), expected


def compare_family(family):
    """Compare each way of asking for losses of one family; and see a stripe out of place."""
    register()
    batch = packed_batch()
    for name, way in WAYS.items():
        found, expected = both(family, batch, **way)
        assert close(found, expected), f"{family}, {name}"
