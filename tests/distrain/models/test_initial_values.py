import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distrain.config.models import LlamaConfig
from distrain.models.init import initialize, rule_of
from distrain.models.initial_values import (
    BLOCK_ELEMENTS,
    Constant,
    Given,
    Normal,
    Overwritten,
    TruncatedNormal,
    Uniform,
    fill_part,
    keyed_generator,
    scaled,
)
from distrain.models.llama import Llama

SHAPE = (37, 3, 400)  # of several blocks, whose ends fall within rows


def drawn(rule, shape=SHAPE, key="0/w"):
    whole = torch.full(shape, torch.nan)
    fill_part(whole, rule, key, shape, (0,) * len(shape))
    return whole


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_part_is_that_of_the_whole(data):
    whole = drawn(Normal(0.3))
    box = []
    for size in SHAPE:
        start = data.draw(st.integers(0, size - 1))
        box.append(slice(start, data.draw(st.integers(start + 1, size))))
    part = torch.full(tuple(cut.stop - cut.start for cut in box), torch.nan)
    fill_part(part, Normal(0.3), "0/w", SHAPE, [cut.start for cut in box])
    assert torch.equal(part, whole[tuple(box)])
    assert not torch.equal(part, drawn(Normal(0.3), key="1/w")[tuple(box)])


@dataclass(frozen=True)
class Counted:
    """Notes which blocks are drawn."""

    starts: list[int] = field(default_factory=list)

    def draw(self, generator, start):
        self.starts.append(start)
        return Normal(1.0).draw(generator, start)


def test_a_part_costs_the_blocks_that_it_touches():
    counted, shape = Counted(), (64, BLOCK_ELEMENTS)
    fill_part(torch.empty(4, BLOCK_ELEMENTS), counted, "0/w", shape, (8, 0))
    assert counted.starts == [n * BLOCK_ELEMENTS for n in range(8, 12)]


@pytest.mark.parametrize(
    ("rule", "reference"),
    [
        (Normal(0.2, 1.0), lambda w, g: nn.init.normal_(w, 1.0, 0.2, generator=g)),
        (Uniform(-0.1, 0.3), lambda w, g: nn.init.uniform_(w, -0.1, 0.3, generator=g)),
        (
            TruncatedNormal(0.2, -0.3, 0.3),
            lambda w, g: nn.init.trunc_normal_(w, 0.0, 0.2, -0.3, 0.3, generator=g),
        ),
        (Constant(0.5), lambda w, g: nn.init.constant_(w, 0.5)),
    ],
)
def test_a_block_is_what_torchs_own_rule_makes(rule, reference):
    expected = reference(torch.empty(BLOCK_ELEMENTS), keyed_generator("k"))
    torch.testing.assert_close(rule.draw(keyed_generator("k"), 0), expected)


def test_a_row_is_overwritten_and_no_other():
    width = SHAPE[1] * SHAPE[2]
    plain = drawn(Normal(1.0))
    padded = drawn(Overwritten(Normal(1.0), Constant(0.0), 14 * width, 15 * width))
    assert bool((padded[14] == 0).all())
    kept = [n for n in range(SHAPE[0]) if n != 14]
    assert torch.equal(padded[kept], plain[kept])


def test_a_table_is_copied():
    table = torch.randn(SHAPE)
    assert torch.equal(drawn(Given(table)), table)


def test_a_scalar_and_nothing_at_all():
    assert float(drawn(Constant(3.0), ())) == 3.0
    fill_part(torch.empty(0, 4), Normal(1.0), "k", (3, 4), (3, 0))


CONFIG = LlamaConfig(
    hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=160
)
MATRIX = "model.layers.1.mlp.up_proj.weight"  # 64 inputs, 160 outputs
RESIDUAL = "model.layers.1.mlp.down_proj.weight"


def rules(**settings):
    model = Llama(CONFIG.model_copy(update=settings), 101)
    return {name: rule_of(model, name, p.shape) for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        ("normal", lambda w: nn.init.normal_(w, std=0.02)),
        ("truncated_normal", lambda w: nn.init.trunc_normal_(w, std=0.02, a=-0.06, b=0.06)),
        ("xavier_normal", nn.init.xavier_normal_),
        ("xavier_uniform", nn.init.xavier_uniform_),
        ("kaiming_normal", lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")),
        ("kaiming_uniform", lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu")),
    ],
)
def test_a_named_rule_spreads_as_torchs_does(method, reference):
    found = drawn(rules(initialization=method, depth_scaling=False)[MATRIX], (160, 64))
    expected = reference(torch.empty(160, 64))
    assert float(found.std()) == pytest.approx(float(expected.std()), rel=0.05)
    assert float(found.abs().max()) == pytest.approx(float(expected.abs().max()), rel=0.4)


def test_norms_start_at_one_under_every_rule():
    assert rules(initialization="kaiming_normal")["model.norm.weight"] == Constant(1.0)


def test_depth_scaling_is_on_or_off():
    root = math.sqrt(6)
    own = rules()
    assert own[MATRIX] == rules(depth_scaling=False)[RESIDUAL] == Normal(0.02)
    assert own[RESIDUAL] == rules(depth_scaling=True)[RESIDUAL] == Normal(0.02 / root)
    named = rules(initialization="xavier_uniform", depth_scaling=True)
    flat = rules(initialization="xavier_uniform", depth_scaling=False)
    assert named[RESIDUAL] == scaled(flat[RESIDUAL], 1 / root)
    assert named[MATRIX] == flat[MATRIX]


def test_the_recipes_rule_reaches_the_values():
    model = Llama(CONFIG.model_copy(update={"initialization": "xavier_normal"}), 101)
    initialize(model, 0)
    values = model.get_parameter(MATRIX)
    assert float(values.std()) == pytest.approx(math.sqrt(2 / 224), rel=0.05)
