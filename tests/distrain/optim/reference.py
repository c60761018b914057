"""A model of one number's loss, stepped by an optimizer of ours and by one of another's."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distrain.config.optimizers import OptimizerConfig
from distrain.optim import build_optimizer

STEPS = 50


class Blocks(nn.Module):
    """Wide and tall matrices within numbered blocks, an embedding and vectors around them."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, width))
            for _ in range(2)
        )
        self.head = nn.Linear(width, 11)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(x)
        return logits


def model_of(dtype: torch.dtype, width: int = 8) -> Blocks:
    torch.manual_seed(0)
    return Blocks(width).to(dtype)


def loss_of(model: nn.Module, step: int) -> Tensor:
    ids = (torch.arange(12).view(3, 4) * (step % 5 + 1) + step) % 11
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), (ids * 3 + 1).flatten() % 11)


def rate_of(step: int, peak: float) -> float:
    """A rate that changes, so that a rate kept from before is seen."""
    return peak * (1 - step / (2 * STEPS))


def ours(config: OptimizerConfig, dtype: torch.dtype, width: int = 8) -> dict[str, Tensor]:
    """Train with an optimizer of ours; returns the parameters."""
    model = model_of(dtype, width)
    optimizer = build_optimizer(model.named_parameters(), config)
    for step in range(STEPS):
        loss_of(model, step).backward()
        optimizer.set_learning_rate(rate_of(step, config.learning_rate))
        optimizer.torch.step()
        optimizer.torch.zero_grad()
    return values(model)


def theirs(
    make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    config: OptimizerConfig,
    dtype: torch.dtype,
    width: int = 8,
) -> dict[str, Tensor]:
    """Train with another's, given (matrices with decay, vectors without)."""
    model = model_of(dtype, width)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = make(groups)
    for step in range(STEPS):
        loss_of(model, step).backward()
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step, config.learning_rate)
        optimizer.step()
        optimizer.zero_grad()
    return values(model)


Rule = Callable[[Tensor, Tensor, dict[str, Any], float, float], Tensor]
"""(parameter, gradient, state, rate, decay) -> parameter."""


def by_paper(
    rule: Callable[[str, Tensor], Rule], config: OptimizerConfig, width: int = 8
) -> dict[str, Tensor]:
    """Train in fp64 by an update that is written out, chosen by name and shape."""
    model = model_of(torch.float64, width)
    states: dict[str, dict[str, Any]] = {name: {} for name, _ in model.named_parameters()}
    for step in range(STEPS):
        loss_of(model, step).backward()
        rate = rate_of(step, config.learning_rate)
        with torch.no_grad():
            for name, p in model.named_parameters():
                assert p.grad is not None
                decay = config.weight_decay if p.ndim > 1 else 0.0
                p.copy_(rule(name, p)(p.clone(), p.grad.clone(), states[name], rate, decay))
        model.zero_grad()
    return values(model)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def difference(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)
