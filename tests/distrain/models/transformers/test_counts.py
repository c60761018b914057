"""Counts of a family's module against the module itself and the products that it makes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from distrain.models import model_on_meta
from distrain.models.transformers.model import TransformersLM
from tests.distrain.models.transformers.families import FAMILIES, VOCAB_SIZE, section

QUICK = ("qwen3",)
LENGTH = 12  # shorter than any window: a masked kernel computes what the mask hides
every_family = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.models) for name in FAMILIES],
)


@every_family
def test_operations_are_those_of_the_matrix_products(name):
    model = TransformersLM(section(name), VOCAB_SIZE)
    model.family.config._experts_implementation = "eager"  # grouped products are not counted
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(2 * LENGTH).view(2, LENGTH)
    # Unfused attention, because torch does not count the fused one of the CPU.
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model(ids).sum().backward()
    with torch.device("meta"):
        shapes = TransformersLM(section(name), VOCAB_SIZE)
    found = counter.get_total_flops() / ids.numel()
    assert found == pytest.approx(shapes.flops_per_token(LENGTH), rel=0.002)
    assert shapes.num_parameters() == sum(p.numel() for p in model.parameters())


def test_a_window_bounds_what_a_token_costs():
    wide, narrow = (
        model_on_meta(section("mistral-window", sliding_window=window), VOCAB_SIZE)
        for window in (None, 16)
    )
    assert wide.flops_per_token(16) == narrow.flops_per_token(16)
    assert wide.flops_per_token(64) - narrow.flops_per_token(64) == 12 * 2 * 32 * (64 - 16)
