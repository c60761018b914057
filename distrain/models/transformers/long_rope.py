"""LongRoPE, whose frequencies depend on the length of a text (arXiv 2402.13753), by document.

transformers chooses the short or the long frequencies for a whole batch, by its largest position:
a long document would change the scores of every other one beside it.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence.
"""

from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LONG_ROPE = "longrope"
BY_LENGTH = (LONG_ROPE, "dynamic")
"""Kinds whose frequencies are not the same for every length."""


def choose_frequencies_by_document(family: "PreTrainedModel") -> frozenset[int]:
    """Let each document have the frequencies that it would have alone, in place.

    Returns:
        The longest documents that still have the short frequencies; empty for other families.
    """
    lengths: set[int] = set()
    for module in family.modules():
        kinds = getattr(module, "rope_type", None)
        if kinds == LONG_ROPE or (isinstance(kinds, dict) and LONG_ROPE in kinds.values()):
            parameters = family.config.rope_parameters
            _choose_by_document(module, parameters)
            layers = [parameters] if "rope_type" in parameters else list(parameters.values())
            lengths |= {
                own["original_max_position_embeddings"]
                for own in layers
                if own["rope_type"] == LONG_ROPE
            }
    return frozenset(lengths)


def choose_by_length(family: "PreTrainedModel") -> bool:
    """Return whether any layer has frequencies that depend on the length of a text."""
    for module in family.modules():
        kinds = getattr(module, "rope_type", None)
        names = kinds.values() if isinstance(kinds, dict) else [kinds]
        if any(name in BY_LENGTH for name in names):
            return True
    return False


def is_in_longer_document(position_ids: Tensor, length: int) -> Tensor:
    """Return which tokens lie in documents of more than ``length`` tokens; shape (B, T), bool."""
    flat = position_ids.flatten()
    # While a text grows, none of the new positions is a first one; its rows are then of one length.
    document = ((flat == 0).cumsum(0) - 1).clamp_min(0)
    last = torch.zeros_like(flat).scatter_reduce(0, document, flat, "amax")
    return (last >= length)[document].view_as(position_ids)


def _choose_by_document(module: nn.Module, parameters: dict[str, Any]) -> None:
    forward = module.forward

    @wraps(forward)
    def by_document(
        x: Tensor, position_ids: Tensor, layer_type: str | None = None
    ) -> tuple[Tensor, ...]:
        rest = () if layer_type is None else (layer_type,)
        own = parameters if layer_type is None else parameters[layer_type]
        if own["rope_type"] != LONG_ROPE:
            return forward(x, position_ids, *rest)  # type: ignore[no-any-return]
        is_long_BT = is_in_longer_document(position_ids, own["original_max_position_embeddings"])
        # Once without the long ones: the largest position is then that of a short one.
        short = forward(x, position_ids.masked_fill(is_long_BT, 0), *rest)
        long = forward(x, position_ids, *rest)
        return tuple(
            torch.where(is_long_BT.unsqueeze(-1), theirs, ours)
            for ours, theirs in zip(short, long, strict=True)
        )

    module.forward = by_document
