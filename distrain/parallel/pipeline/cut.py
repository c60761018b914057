"""Turn a whole model on the meta device into one stage of it, in place.

A stage is the family's own model: names stay global, and its own code runs around its own layers.
What belongs to other stages is replaced by modules without parameters. Foreign layers hand on what
they are given, so that the list keeps its length and a layer its place in it, by which families
choose windows and positions. What makes the hidden states of the first layer makes zeros elsewhere;
in the place of the first layer they are dropped for the hidden states that were received, so
learned positions and scales of the embedding count once.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, D = width of the layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distrain.errors import RecipeError
from distrain.models.attention import DocumentLayout
from distrain.models.causal_lm import CausalLM
from distrain.parallel.pipeline.anatomy import Anatomy, Unit, given_hidden, uncut


@dataclass
class Inbox:
    """Holds the hidden states that the stage before gave, shape (B, T, D), while they are used."""

    hidden: Tensor | None = None

    @property
    def received(self) -> Tensor:
        """What is there."""
        assert self.hidden is not None, "hidden states come before the pass"
        return self.hidden


class HandedOn(nn.Module):
    """In the place of a foreign layer, or of what follows the layers: changes nothing.

    Args:
        inbox: Of the first layer's place: what is handed on instead of what comes.
        tuple_size: What a layer of this family returns; see ``Anatomy``.
    """

    def __init__(self, inbox: Inbox | None = None, tuple_size: int = 0) -> None:
        super().__init__()
        self.inbox = inbox
        self.tuple_size = tuple_size

    def forward(self, *args: object, **keywords: object) -> Tensor | tuple[Tensor | None, ...]:
        """Return the hidden states in the form of a layer."""
        hidden = given_hidden(args, keywords) if self.inbox is None else self.inbox.received
        if not self.tuple_size:
            return hidden
        return (hidden, *(None,) * (self.tuple_size - 1))


class Blank(nn.Module):
    """In the place of an embedding, or of what follows it: zeros, of which nothing is kept.

    Their type and device are those of the hidden states, which rotary tables are made for.
    """

    def __init__(self, inbox: Inbox, unit: Unit) -> None:
        super().__init__()
        self.inbox = inbox
        self.unit = unit

    def forward(self, *args: object, **keywords: object) -> Tensor:
        """Return zeros of the shape that the module would give."""
        given = next(v for v in (*args, *keywords.values()) if isinstance(v, Tensor))
        shape = (*given.shape[: self.unit.ndim - 1], self.unit.width)
        return self.inbox.received.new_zeros(shape)


def cut_pipeline(model: CausalLM, anatomy: Anatomy, cuts: Sequence[range], stage: int) -> Inbox:
    """Keep one stage of a model: its layers, and what the first or the last stage has besides.

    A tied table is kept by the first stage as the embedding and by the last one as the output
    layer, whose weight is then a parameter of its own: ``model.copies`` says whose copy.

    Args:
        model: Whole, on the meta device.
        anatomy: Of it.
        cuts: The layers of every stage.
        stage: Which of them.

    Returns:
        Where the hidden states go that the model is to begin with; unused by the first stage.

    Raises:
        RecipeError: The model does what no stage can do by itself.
    """
    if model.balancing is not None:
        raise uncut(model, "a balancing loss over the experts of all layers at once")
    # Of the whole, before layers go: stages judge what they compute together by one measure.
    model.experts_elsewhere = model.has_experts
    inbox, is_last = Inbox(), stage == len(cuts) - 1
    if len(cuts) == 1:
        return inbox
    for number, name in enumerate(anatomy.layers):
        if number not in cuts[stage]:
            given = inbox if number == 0 else None  # a later stage never has the first layer
            _replace(model, name, HandedOn(given, anatomy.tuple_size))
            model.blocks_elsewhere += 1
    if is_last:
        _keep_copy(model, anatomy)
    else:
        for unit in anatomy.after:
            _replace(model, unit.name, HandedOn())
        _empty(model.output_layer)
        model.forward = partial(_hidden_states, model)  # type: ignore[method-assign]
    if stage > 0:
        for unit in anatomy.before:
            _replace(model, unit.name, Blank(inbox, unit))
    # There is nothing to share any more: the table's other half lies on another stage.
    model.tie_weights = _keep_apart  # type: ignore[method-assign]
    return inbox


def require_whole_logits(model: CausalLM) -> None:
    """Let the loss be taken of all logits at once, as zero-bubble needs it.

    A loss in chunks forms the gradients of hidden states and weights together, which that schedule
    takes apart.

    Raises:
        RecipeError: Chunks are asked for.
    """
    layer = model.output_layer
    if isinstance(layer.loss.chunk_tokens, int):
        raise RecipeError(
            "training.loss.chunk_tokens",
            f"{layer.loss.chunk_tokens} with pipeline_schedule zero_bubble",
            "auto or null: this schedule takes the gradients of weights by themselves",
            "Set training.loss.chunk_tokens to null, or parallelism.pipeline_schedule to 1f1b.",
        )
    layer.loss = layer.loss.model_copy(update={"chunk_tokens": None})


def _hidden_states(
    model: CausalLM,
    input_ids: Tensor,
    *,
    documents: DocumentLayout,
    **others: Any,  # noqa: ANN401
) -> Tensor:
    """Stand for the forward pass of a stage that is not the last."""
    del others
    return model.hidden_states(input_ids, documents)


def _keep_copy(model: CausalLM, anatomy: Anatomy) -> None:
    if anatomy.tied is None:
        return
    copy, owner = anatomy.tied
    weight = model.output_layer.weight
    model.output_layer.weight = nn.Parameter(
        torch.empty_like(weight), requires_grad=weight.requires_grad
    )
    model.copies[copy] = owner


def _keep_apart() -> None:
    """Tie nothing."""


def _empty(module: nn.Module) -> None:
    for child in module.modules():
        for name in child._parameters:
            child._parameters[name] = None


def _replace(model: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, by)
