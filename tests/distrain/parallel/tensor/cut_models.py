"""Tiny models on one axis, and what their gradients are held against."""

import torch
from torch.distributed.tensor import DTensor, Replicate

from distrain.config.tasks import IGNORE_INDEX
from distrain.models import build_model
from distrain.models.attention.layout import in_one_row
from distrain.models.init import initialize
from distrain.parallel.tensor.parameters import part_of
from tests.distrain.axes.families import EXPERTS, model_section, noisy

VOCAB, LENGTHS = 121, (20, 9, 19)
REACH = {**dict.fromkeys(EXPERTS, 1e-4), "gemma2": 1e-5, "gemma3_text": 1e-5}
"""Relative: experts have no float64, and some norms take none; by default 1e-9."""
TIED = {"tie_word_embeddings": True}


def whole_model(family, **more):
    model = noisy(build_model(model_section(family, **more), VOCAB))
    model.to(torch.float32 if family in EXPERTS else torch.float64)
    initialize(model, 7)
    return model.train()


def losses_of(model, length=48):
    dice = torch.Generator().manual_seed(2)
    ids = torch.randint(VOCAB, (1, 48), generator=dice)[:, :length]
    targets = torch.randint(VOCAB, (1, 48), generator=dice)[:, :length]
    targets[0, [3, 28]] = IGNORE_INDEX
    lengths = [*LENGTHS[:-1], LENGTHS[-1] - 48 + length]
    return model(ids, target_ids=targets, documents=in_one_row(lengths, ids.device))


def gradient_here(name, part, whole, packed):
    """The gradient of the whole, as far as this rank holds the parameter."""
    (placement,) = part.placements
    if isinstance(placement, Replicate):
        return whole
    mesh = part.device_mesh
    return part_of(whole, placement.dim, packed.get(name), mesh.size(), mesh.get_local_rank())


def differing(model, whole, reach):
    """Names of parameters whose gradient is another than that of the whole model."""
    wrong = []
    of_whole = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        assert parameter.requires_grad == of_whole[name].requires_grad
        if not parameter.requires_grad:
            continue
        gradient = parameter.grad
        assert isinstance(gradient, DTensor)
        found = gradient.redistribute(placements=parameter.placements).to_local()
        expected = gradient_here(name, parameter, of_whole[name].grad, model.packed)
        largest = float((found - expected).abs().max() / expected.abs().max())
        if largest > reach:
            wrong.append(f"{name} {largest:.0e}")
    return wrong
