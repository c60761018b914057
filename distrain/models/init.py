"""Initial values of a model: a pure function of (seed, parameter), whatever ranks and engine."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distrain.dtensor import own_parts
from distrain.models.causal_lm import CausalLM
from distrain.models.initial_values import (
    VALUES_VERSION,
    Constant,
    Normal,
    TruncatedNormal,
    Uniform,
    ValueRule,
    fill_part,
    scaled,
)

CUT_AT_STDS = 3.0
"""Of ``truncated_normal``."""


def initialize(model: nn.Module, seed: int) -> None:
    """Set every parameter to its initial values; ties shared weights first.

    Works on a materialized model, sharded by FSDP2 (DTensor) or not, costs what this rank holds of
    it, and needs no communication.
    """
    assert isinstance(model, CausalLM), f"{type(model).__name__} is not one of MODELS"
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            owner = model.copies.get(name, name)
            rule = rule_of(model, owner, parameter.shape)
            # Keyed by name, so no other parameter moves the values.
            key = f"{VALUES_VERSION}/{seed}/{owner}"
            for offsets, part in own_parts(parameter, model.packed.get(name, ())):
                fill_part(part, rule, key, parameter.shape, offsets)


def rule_of(model: CausalLM, name: str, shape: torch.Size) -> ValueRule:
    """Choose between the family's own rule and the one that the recipe names.

    What starts from constants, such as norms and biases, does so under every rule. With depth
    scaling, matrices that write to the residual stream are divided by ``sqrt(2 * layers)``, so
    that its variance does not grow with depth (GPT-2, section 2.3).
    """
    config = model.model_config
    rule = model.family_rule(name, shape)
    has_depth = model.FAMILY_SCALES_DEPTH
    is_drawn = len(shape) >= 2 and not isinstance(rule, Constant)
    if config.initialization != "family" and is_drawn:
        rule = _named_rule(config.initialization, config.initializer_range, model.fans(name, shape))
        has_depth = False
    wants_depth = (
        model.FAMILY_SCALES_DEPTH if config.depth_scaling is None else config.depth_scaling
    )
    if wants_depth != has_depth and name.endswith(model.RESIDUAL_PROJECTIONS):
        root = math.sqrt(2 * model.num_blocks)
        rule = scaled(rule, 1 / root if wants_depth else root)
    return rule


def _named_rule(method: str, std: float, fans: tuple[int, int]) -> ValueRule:
    """Return a rule of ``torch.nn.init`` for a matrix; gains are 1 (xavier) and sqrt(2) (He)."""
    fan_in, fan_out = fans
    xavier, kaiming = math.sqrt(2 / (fan_in + fan_out)), math.sqrt(2 / fan_in)
    rules: dict[str, ValueRule] = {
        "normal": Normal(std),
        "truncated_normal": TruncatedNormal(std, -CUT_AT_STDS * std, CUT_AT_STDS * std),
        # A uniform distribution of half width a has the standard deviation a / sqrt(3).
        "xavier_normal": Normal(xavier),
        "xavier_uniform": Uniform(-math.sqrt(3) * xavier, math.sqrt(3) * xavier),
        "kaiming_normal": Normal(kaiming),
        "kaiming_uniform": Uniform(-math.sqrt(3) * kaiming, math.sqrt(3) * kaiming),
    }
    return rules[method]


def fill(parameter: Tensor, full: Tensor, packed: Sequence[int] = ()) -> None:
    """Copy the whole tensor ``full`` into a parameter, or this rank's part of it into a DTensor.

    ``packed``: as of ``own_parts``, and as a model says it of its parameters.
    """
    with torch.no_grad():
        for offsets, part in own_parts(parameter, packed):
            place = tuple(
                slice(start, start + size) for start, size in zip(offsets, part.shape, strict=True)
            )
            part.copy_(full[place])
