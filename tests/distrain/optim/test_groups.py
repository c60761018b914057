"""Rates and decay by pattern of names."""

import pytest
import torch
from torch import nn

from distrain.config.models import LlamaConfig
from distrain.config.optimizers import AdamWConfig, MuonConfig, ParameterRule, SgdConfig
from distrain.errors import RecipeError
from distrain.models import build_model
from distrain.optim import build_optimizer
from distrain.optim.groups import parameter_groups
from tests.distrain.optim.proof import engine_of
from tests.distrain.optim.reference import Blocks
from tests.distrain.parallel.tiny_model import Case


def settings(rules):
    """Name -> (decay, ratio)."""
    groups = parameter_groups(Blocks().named_parameters(), 0.1, rules)
    return {
        name: (group["weight_decay"], group["lr_ratio"])
        for group in groups
        for name in group["names"]
    }


def test_without_rules_matrices_decay():
    found = settings([])
    assert found["blocks.0.0.weight"] == found["embedding.weight"] == (0.1, 1.0)
    assert found["blocks.0.0.bias"] == (0.0, 1.0)


def test_biases_of_stacked_experts_are_no_matrices():
    named = {
        name: nn.Parameter(torch.zeros(4, 6))
        for name in ("layers.0.experts.up_proj", "layers.0.experts.up_proj_bias")
    }
    decays = [
        (group["names"][0], group["weight_decay"]) for group in parameter_groups(named.items(), 0.1)
    ]
    assert decays == [("layers.0.experts.up_proj", 0.1), ("layers.0.experts.up_proj_bias", 0.0)]
    optimizer = build_optimizer(named.items(), MuonConfig()).torch
    orthogonal = [(g["names"][0], g["orthogonal"]) for g in optimizer.param_groups]
    assert orthogonal == [
        ("layers.0.experts.up_proj", True),
        ("layers.0.experts.up_proj_bias", False),
    ]


def test_the_first_rule_that_matches_counts():
    found = settings(
        [
            ParameterRule(match="embedding.*", weight_decay=0.0),
            ParameterRule(match="*.bias", lr_ratio=2.0),
            ParameterRule(match="blocks.1.*", lr_ratio=0.5, weight_decay=0.2),
        ]
    )
    assert found["embedding.weight"] == (0.0, 1.0)
    assert found["blocks.1.0.bias"] == (0.0, 2.0)
    assert found["blocks.1.0.weight"] == (0.2, 0.5)
    assert found["blocks.0.0.weight"] == (0.1, 1.0)


def test_a_vector_decays_where_a_rule_says_so():
    assert settings([ParameterRule(match="head.bias", weight_decay=0.3)])["head.bias"] == (0.3, 1)


@pytest.mark.parametrize(
    ("rules", "phrase"),
    [
        (["*.bais"], r"groups\[0\].match.*no trained parameter's name matches"),
        (["*", "*.bias"], r"groups\[1\].match.*left for"),
        (["bias"], "Write \\* for what differs"),
    ],
)
def test_a_rule_that_counts_nowhere_is_refused(rules, phrase):
    with pytest.raises(RecipeError, match=f"(?s){phrase}"):
        settings([ParameterRule(match=rule) for rule in rules])


def test_a_frozen_parameter_is_no_match():
    model = Blocks()
    model.head.requires_grad_(False)
    rules = [ParameterRule(match="head.*")]
    with pytest.raises(RecipeError, match="no trained parameter"):
        parameter_groups(model.named_parameters(), 0.1, rules)


def test_parameters_move_at_their_rates():
    rules = (ParameterRule(match="still", lr_ratio=0.0), ParameterRule(match="slow", lr_ratio=0.1))
    config = SgdConfig(learning_rate=1.0, momentum=0.0, groups=rules)
    named = {name: nn.Parameter(torch.ones(2)) for name in ("still", "slow", "other")}
    optimizer = build_optimizer(named.items(), config)
    for parameter in named.values():
        parameter.grad = torch.ones(2)
    optimizer.set_learning_rate(0.5)
    optimizer.torch.step()
    assert [p.detach()[0].item() for p in named.values()] == pytest.approx([1.0, 0.95, 0.5])


def test_groups_without_rules_are_those_of_today():
    """Matrices and the rest, also where both decay alike: ZeRO lays a group out as one buffer."""
    config = AdamWConfig(weight_decay=0.0)
    groups = parameter_groups(Blocks().named_parameters(), config.weight_decay)
    assert [len(group["params"]) for group in groups] == [6, 5]


def test_an_engine_matches_plain_names():
    """The tiny model's own names begin with ``blocks``, which its checkpoints call ``layers``."""
    engine_of(Case(), AdamWConfig(groups=(ParameterRule(match="layers.*", lr_ratio=0.5),)))
    with pytest.raises(RecipeError, match="no trained parameter's name"):
        engine_of(Case(), AdamWConfig(groups=(ParameterRule(match="blocks.*"),)))


@pytest.mark.parametrize("tied", [False, True])
def test_names_known_without_the_model_are_the_models(tied):
    config = LlamaConfig(tie_word_embeddings=tied, num_hidden_layers=2)
    names = [name for name, _ in build_model(config, 11).named_parameters()]
    assert config.parameter_names() == names
