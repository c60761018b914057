"""How a family of transformers balances its experts: found out from its own forward pass.

Shape legend: N = tokens, E = experts of a layer, V = vocabulary.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distrain.config.models.transformers.section import BALANCING_KEYS, EXPERT_KEYS
from distrain.errors import RecipeError
from distrain.models.balancing import BalancingRule, sum_routing
from distrain.models.causal_lm import holds_experts
from distrain.models.transformers.construction import run_with_given

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def balancing_rule(family: "PreTrainedModel") -> BalancingRule | None:
    """Return the rule; ``None`` without experts, balancing loss or coefficient.

    Its forward pass, with hidden states and routers' scores that are given, must add to the loss
    what ``distrain.models.balancing`` computes of the same scores.

    Raises:
        RecipeError: It has a balancing loss of another form.
    """
    num_experts, coefficient = _setting(family, EXPERT_KEYS), _setting(family, BALANCING_KEYS)
    if not num_experts or not coefficient or not holds_experts(family):
        return None
    chosen = _setting(family, ("num_experts_per_tok",))
    rule = BalancingRule(int(chosen or 1), float(coefficient))
    numbers = torch.arange(6.0 * num_experts, device="cpu").view(6, -1)
    scores = (numbers.sin(), (2 * numbers).sin())
    found = _added(family, scores)
    if found is None:
        return None
    sums = sum_routing([scores], rule, None)
    expected = rule.coefficient * sums.share_of_loss(sums.counts, sums.num_tokens)
    if not torch.allclose(found.double(), expected.double(), rtol=1e-4):
        raise RecipeError(
            "model.config.output_router_logits",
            f"true, for {family.config.model_type}, whose balancing loss is one of its own",
            f"{' or '.join(BALANCING_KEYS)} times the loss of the Switch Transformer",
            "Set output_router_logits to false.",
        )
    return rule


def _setting(family: "PreTrainedModel", names: tuple[str, ...]) -> Any:  # noqa: ANN401
    values = (getattr(family.config, name, None) for name in names)
    return next((value for value in values if value is not None), None)


def _added(family: "PreTrainedModel", scores: tuple[Tensor, ...]) -> Tensor | None:
    """Return what the family adds to its loss for given scores of its routers."""
    # So sure of the next token that the cross-entropy is 0: small figures beside it are exact.
    hidden = torch.zeros(1, 2, family.config.vocab_size, device="cpu")
    hidden[..., 0] = 1e6
    labels = torch.zeros(1, 2, dtype=torch.long, device="cpu")
    with_scores, without = (
        run_with_given(family, hidden, given, labels=labels, output_router_logits=given is not None)
        for given in (scores, None)
    )
    if not isinstance(getattr(with_scores, "aux_loss", None), Tensor):
        return None
    found: Tensor = with_scores.loss - without.loss
    return found
