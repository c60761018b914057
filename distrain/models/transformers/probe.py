"""A few tokens through a loaded model: does it keep the documents of a row apart?

A family is taken over without having been read. Whether it attends only through our function, masks
nothing in another way, and mixes positions nowhere else, its own forward pass tells, in the wrapped
and sharded form in which it will train: a change in one document must move no score of another.
Convolutions and recurrent states do, and are found so. Two forward passes of 2 x 12 tokens.
Before the queue, where nothing has values, one pass on the meta device tells who attends, and with
which masks.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, V = vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from distrain.models.attention import DocumentLayout
from distrain.models.transformers.construction import refused
from distrain.models.transformers.interface import (
    AttentionRecord,
    masks_without_values,
    probed,
    recording,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHORT, LONG = 5, 7
"""Tokens of the two documents of a row."""
ROUNDING = 1e-5
"""Of the largest score: how far sums in another order may move one in float32."""
ROUNDING_OF_LESS = 5e-2
"""The same in lower precisions."""


@torch.no_grad()
def require_separate_documents(
    module: nn.Module,
    family: "PreTrainedModel",
    device: torch.device,
    *,
    has_experts: bool,
    counts_layers: bool = True,
) -> None:
    """Refuse a model whose documents see each other, or that attends past our function.

    Collective: every rank calls it with the same tokens.

    Args:
        module: What the engine's forward pass calls, or the model itself.
        family: The causal module within.
        device: Of inputs.
        has_experts: Whether any layer of the model has, here or on another rank.
        counts_layers: Whether all layers are here, to be counted.

    Raises:
        RecipeError: The family cannot be trained on packed documents.
    """
    name, vocab_size = family.config.model_type, family.config.vocab_size
    first, changed = _tokens(vocab_size, 0, device), _tokens(vocab_size, 1, device)
    if device.type == "meta":
        _require_calls(module, family, first)
        return
    was_training = module.training
    module.eval()
    try:
        with probed(family), recording() as record:
            before = _scores(module, first)
        after = _scores(module, changed)
    except (ValueError, TypeError, AttributeError) as error:
        raise refused(name, str(error)) from error
    finally:
        module.train(was_training)
    problem = _calls_problem(record, family.config.num_hidden_layers) if counts_layers else None
    if problem is None and _moved(before, after, has_experts=has_experts):
        problem = "layers in which one document of a row moves the scores of another"
    if problem is None and _differs_by_place(before):
        problem = "scores of a document that depend on what lies before it in its row"
    if problem is not None:
        raise refused(name, problem)


def _require_calls(module: nn.Module, family: "PreTrainedModel", input_ids: Tensor) -> None:
    """Judge what a pass without values shows: which layers attend through our function, and how.

    A family that looks at values itself ends the pass, and is left to loading.
    """
    name, depth = family.config.model_type, family.config.num_hidden_layers
    try:
        with probed(family), masks_without_values(), recording() as record:
            _scores(module.eval(), input_ids)
    except (ValueError, TypeError, AttributeError) as error:
        raise refused(name, str(error)) from error
    except RuntimeError:  # NotImplementedError is one
        return
    problem = _calls_problem(record, depth)
    if problem is not None:
        raise refused(name, problem)


def _tokens(vocab_size: int, shift: int, device: torch.device) -> Tensor:
    """Lay two documents in both orders; the short one follows ``shift``. Shape (2, 12)."""
    short = (torch.arange(SHORT) * 3 + 2 + shift) % vocab_size
    long = (torch.arange(LONG) * 5 + 1) % vocab_size
    return torch.stack([torch.cat([short, long]), torch.cat([long, short])]).to(device)


def _scores(module: nn.Module, input_ids: Tensor) -> Tensor:
    device = input_ids.device
    lengths = torch.tensor([SHORT, LONG, LONG, SHORT])
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    ends = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).to(torch.int32)
    documents = DocumentLayout(
        ends.to(device), positions.view_as(input_ids).to(device), tuple(lengths.tolist())
    )
    scores: Tensor = module(input_ids, documents=documents)
    return scores


def _calls_problem(record: AttentionRecord, depth: int) -> str | None:
    layers = {id(layer) for layer in record.layers}
    if len(layers) != depth:
        return f"{len(layers)} of {depth} layers that call attention through the interface"
    if len(record.layers) != depth:
        return f"layers that attend {len(record.layers) / depth:.3g} times each"
    if record.masks != record.windows:
        return f"masks that reach {record.masks} positions back where layers say {record.windows}"
    return None


def _of_long(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Cut out the scores of the document that stays as it is, shape (T, V), from both rows."""
    return scores[0, SHORT:], scores[1, :LONG]


def _moved(before: Tensor, after: Tensor, *, has_experts: bool) -> bool:
    """Return whether scores of the unchanged document moved.

    The same operations on the same shapes give the same bits. But the shapes of experts' matrices
    follow the routing of the whole row; and in a low precision, experts may even be chosen anew at
    single positions, where what leaks through attention moves all of them.
    """
    pairs = zip(_of_long(before), _of_long(after), strict=True)
    moved = torch.cat([(was - now).abs().amax(-1) for was, now in pairs]).float()
    if not has_experts:
        return bool(moved.max() > 0)
    is_exact = _rounding(before) == ROUNDING
    return bool((moved.max() if is_exact else moved.median()) > _allowed(before))


def _differs_by_place(scores: Tensor) -> bool:
    there, here = _of_long(scores)
    moved = (there - here).abs().amax(-1).float()
    return bool(moved.median() > 10 * _allowed(scores))


def _allowed(scores: Tensor) -> float:
    return _rounding(scores) * float(scores.abs().max())


def _rounding(scores: Tensor) -> float:
    return ROUNDING if scores.dtype.itemsize >= torch.float32.itemsize else ROUNDING_OF_LESS
