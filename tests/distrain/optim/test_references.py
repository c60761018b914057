"""Fifty steps beside a named reference; a setting that differs is seen at once."""

import math

import pytest
import torch

from distrain.config.optimizers import (
    AdafactorConfig,
    AdagradConfig,
    AdamConfig,
    AdamW8bitConfig,
    AdamWConfig,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    RmspropConfig,
    SgdConfig,
)
from distrain.optim import build_optimizer
from distrain.optim.muon import COEFFICIENTS, OF_A_BLOCK, newton_schulz
from tests.distrain.optim.reference import by_paper, difference, ours, theirs

OF_TORCH: list[tuple[OptimizerConfig, object, OptimizerConfig]] = [
    # (ours, torch's, ours with one setting changed: the control)
    (
        AdamWConfig(learning_rate=0.01),
        lambda g: torch.optim.AdamW(g, betas=(0.9, 0.95), foreach=False),
        AdamWConfig(learning_rate=0.01, betas=(0.9, 0.951)),
    ),
    (
        AdamConfig(learning_rate=0.01, weight_decay=0.1),
        lambda g: torch.optim.Adam(g, betas=(0.9, 0.999), foreach=False),
        AdamWConfig(learning_rate=0.01, weight_decay=0.1, betas=(0.9, 0.999)),
    ),
    (
        SgdConfig(learning_rate=0.1, weight_decay=0.1),
        lambda g: torch.optim.SGD(g, momentum=0.9),
        SgdConfig(learning_rate=0.1, weight_decay=0.1, nesterov=True),
    ),
    (
        SgdConfig(learning_rate=0.1, nesterov=True, momentum=0.8),
        lambda g: torch.optim.SGD(g, lr=1, momentum=0.8, nesterov=True),
        SgdConfig(learning_rate=0.1, momentum=0.8),
    ),
    (
        SgdConfig(learning_rate=0.1, momentum=0.0, weight_decay=0.1),
        lambda g: torch.optim.SGD(g, lr=1),
        SgdConfig(learning_rate=0.1, momentum=0.0),
    ),
    (
        RmspropConfig(learning_rate=0.01, weight_decay=0.1),
        lambda g: torch.optim.RMSprop(g),
        RmspropConfig(learning_rate=0.01, weight_decay=0.1, alpha=0.991),
    ),
    (
        RmspropConfig(learning_rate=0.01, momentum=0.5, centered=True),
        lambda g: torch.optim.RMSprop(g, momentum=0.5, centered=True),
        RmspropConfig(learning_rate=0.01, momentum=0.5),
    ),
    (
        AdagradConfig(learning_rate=0.1, weight_decay=0.1, initial_accumulator_value=0.1),
        lambda g: torch.optim.Adagrad(g, initial_accumulator_value=0.1),
        AdagradConfig(learning_rate=0.1, weight_decay=0.1),
    ),
]


@pytest.mark.parametrize(
    ("config", "make", "control"), OF_TORCH, ids=lambda value: getattr(value, "name", "")
)
def test_updates_are_those_of_torch(config, make, control):
    expected = theirs(make, config, torch.float64)
    assert difference(ours(config, torch.float64), expected) < 1e-10
    assert difference(ours(control, torch.float64), expected) > 1e-4
    assert difference(ours(config, torch.float32), expected) < 2e-3


def lion_step(p, g, state, rate, decay, betas=(0.9, 0.99)):
    """Algorithm 2 of arXiv 2302.06675."""
    m = state.get("m", torch.zeros_like(p))
    c = betas[0] * m + (1 - betas[0]) * g
    state["m"] = betas[1] * m + (1 - betas[1]) * g
    return p - rate * (torch.sign(c) + decay * p)


def test_lion_is_the_paper_s():
    config = LionConfig(learning_rate=1e-3)
    expected = by_paper(lambda name, p: lion_step, config)
    assert difference(ours(config, torch.float64), expected) < 1e-10
    control = LionConfig(learning_rate=1e-3, betas=(0.95, 0.98))
    assert difference(ours(control, torch.float64), expected) > 1e-4


def muon_step(p, g, state, rate, decay):
    """Algorithm of Jordan (2024) with the rate of arXiv 2502.16982, equation 4."""
    m = state["m"] = 0.95 * state.get("m", torch.zeros_like(p)) + 0.05 * g
    x = 0.05 * g + 0.95 * m
    a, b, c = COEFFICIENTS
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return p * (1 - rate * decay) - rate * 0.2 * math.sqrt(max(p.shape)) * x


def adamw_step(p, g, state, rate, decay):
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = 0.9 * state.get("m", torch.zeros_like(p)) + 0.1 * g
    v = state["v"] = 0.95 * state.get("v", torch.zeros_like(p)) + 0.05 * g * g
    root = (v / (1 - 0.95**t)).sqrt() + 1e-8
    return p * (1 - rate * decay) - rate * m / (1 - 0.9**t) / root


def muon_rule(name, p):
    return muon_step if p.ndim == 2 and OF_A_BLOCK.search(name) else adamw_step


def test_muon_is_the_paper_s_for_matrices_of_blocks_and_adamw_around_them():
    config = MuonConfig(learning_rate=0.01)
    expected = by_paper(muon_rule, config)
    assert difference(ours(config, torch.float64), expected) < 1e-9
    assert difference(ours(config, torch.float32), expected) < 1e-3
    for control in ({"adjust_lr": "original"}, {"nesterov": False}, {"ns_steps": 4}):
        other = ours(MuonConfig(learning_rate=0.01, **control), torch.float64)
        assert difference(other, expected) > 1e-3, control
    everywhere = by_paper(lambda _, p: muon_step if p.ndim == 2 else adamw_step, config)
    assert difference(everywhere, expected) > 1e-3


@pytest.mark.parametrize("shape", [(6, 17), (17, 6), (3, 6, 17), (3, 17, 6)])
def test_newton_schulz_keeps_singular_vectors_and_brings_values_near_one(shape):
    torch.manual_seed(1)
    matrices = torch.randn(shape, dtype=torch.float64)
    done = newton_schulz(matrices, 5, torch.float64)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    inner = u.mT @ done @ vh.mT
    values = torch.diagonal(inner, dim1=-2, dim2=-1)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    assert float((inner - torch.diag_embed(values)).abs().max()) < 1e-9


def test_muon_knows_the_sides_of_a_matrix_that_is_stored_inputs_first():
    config = MuonConfig(learning_rate=0.02, adjust_lr="original", weight_decay=0.0)
    values = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    name, moved = "blocks.0.up.weight", []
    # (stored, inputs first): outputs are 12 in all but the last, the control.
    for stored, inputs_first in ((values.T, False), (values, True), (values, False)):
        parameter = torch.nn.Parameter(stored.clone(memory_format=torch.contiguous_format))
        told = {name} if inputs_first else set[str]()
        optimizer = build_optimizer([(name, parameter)], config, told.__contains__)
        parameter.grad = parameter.detach().clone()
        optimizer.torch.step()
        moved.append((parameter.detach() - stored).reshape(stored.shape))
    assert (moved[0].T - moved[1]).abs().max() < 1e-6
    assert (moved[1] - 2 * moved[2]).abs().max() < 1e-6  # sqrt(12 / 3)


@pytest.mark.models
def test_muon_in_bf16_is_torch_s():
    for adjust in ("original", "match_rms_adamw"):
        config = MuonConfig(learning_rate=0.002, ns_precision="bf16", adjust_lr=adjust)
        # torch's takes matrices only; it has no rule for embeddings, head and vectors.
        expected = by_paper(muon_rule, MuonConfig(learning_rate=0.002, adjust_lr=adjust))
        name = "blocks.0.0.weight"
        gradient = torch.randn(expected[name].shape, generator=torch.Generator().manual_seed(3))
        parameters = [torch.nn.Parameter(expected[name].float()) for _ in range(2)]
        mine = build_optimizer([(name, parameters[0])], config).torch
        torchs = torch.optim.Muon([parameters[1]], lr=0.002, weight_decay=0.1, adjust_lr_fn=adjust)
        for _ in range(50):
            for parameter, optimizer in zip(parameters, (mine, torchs), strict=True):
                parameter.grad = gradient.clone() + 0.1 * parameter.detach()
                optimizer.step()
        moved = float((parameters[1] - expected[name].float()).detach().abs().max())
        apart = float((parameters[0] - parameters[1]).detach().abs().max())
        assert apart < 0.01 * moved, (adjust, apart, moved)


@pytest.mark.models  # transformers takes seconds to import
@pytest.mark.parametrize("scaled", [False, True])
def test_adafactor_is_that_of_transformers(scaled):
    from transformers.optimization import Adafactor

    config = AdafactorConfig(learning_rate=0.01, weight_decay=0.1, scale_parameter=scaled)

    def make(groups):
        return Adafactor(
            groups, lr=0.01, scale_parameter=scaled, relative_step=False, warmup_init=False
        )

    expected = theirs(make, config, torch.float32)
    assert difference(ours(config, torch.float32), expected) < 1e-5
    control = AdafactorConfig(
        learning_rate=0.01, weight_decay=0.1, scale_parameter=scaled, clip_threshold=0.9
    )
    assert difference(ours(control, torch.float32), expected) > 1e-4


def test_adafactor_with_the_moments_of_a_matrix_written_out():
    config = AdafactorConfig(learning_rate=0.01, weight_decay=0.1)

    def step(p, g, state, rate, decay):
        t = state["t"] = state.get("t", 0) + 1
        keep, square = 1 - t**-0.8, g * g + 1e-30
        if p.ndim == 1:
            v = state["v"] = keep * state.get("v", 0) + (1 - keep) * square
        else:
            row = state["r"] = keep * state.get("r", 0) + (1 - keep) * square.mean(1)
            column = state["c"] = keep * state.get("c", 0) + (1 - keep) * square.mean(0)
            v = torch.outer(row, column) / row.mean()
        update = g / v.sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()))
        return p * (1 - rate * decay) - rate * update

    expected = by_paper(lambda *_: step, config)
    assert difference(ours(config, torch.float64), expected) < 1e-10
    control = AdafactorConfig(learning_rate=0.01, weight_decay=0.1, decay_rate=0.7)
    assert difference(ours(control, torch.float64), expected) > 1e-4


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")
def test_adamw_8bit_is_that_of_bitsandbytes():
    from bitsandbytes.optim.adamw import AdamW8bit

    config = AdamW8bitConfig(learning_rate=0.01, weight_decay=0.1)
    width = 64  # so that matrices of blocks are large enough for 8 bits
    expected = theirs(
        lambda groups: AdamW8bit(groups, lr=0.01, betas=(0.9, 0.95)), config, torch.float32, width
    )
    found = ours(config, torch.float32, width)
    large = {name: value for name, value in expected.items() if value.numel() >= 4096}
    assert len(large) == 4
    assert difference(found, expected) < 1e-4
    control = AdamW8bitConfig(learning_rate=0.01, weight_decay=0.1, min_8bit_size=10**9)
    assert difference(ours(control, torch.float32, width), expected) > 1e-3
