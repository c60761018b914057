"""Floating-point operations of a trained token, from the shapes of a module alone."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from distrain.models.causal_lm import CausalLM

EXPERT_DIMS = 3
"""Axes of a parameter that holds the weights of all experts of a layer; the first counts them."""
NO_ADAPTERS: Mapping[str, int] = MappingProxyType({})


def matrices_of(module: nn.Module, experts_of_a_token: int) -> Iterator[tuple[nn.Parameter, int]]:
    """Yield the matrices that a token is multiplied with, each with how many of its elements are.

    Not those of embeddings, which are looked up; but that of an output layer, also if it is one.

    Args:
        module: May lie on the meta device.
        experts_of_a_token: To how many of a layer's experts it goes.
    """
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            continue
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.dim() == EXPERT_DIMS:
                yield parameter, parameter.numel() // parameter.shape[0] * experts_of_a_token
            # Routers hold a plain matrix; biases of experts are matrices by their shape alone.
            elif parameter.dim() == 2 and name == "weight":
                yield parameter, parameter.numel()


def flops_of_training(
    model: "CausalLM",
    sequence_length: int,
    is_trained: Callable[[str], bool],
    ranks: Mapping[str, int] = NO_ADAPTERS,
) -> float:
    """Count the operations of one trained token where a part of the model is frozen.

    For each weight that it is multiplied with 2 forward, 2 for the gradient of what comes in, and 2
    for that of the weight if it is trained. So a frozen weight costs 4, and 2 below all that is
    trained, where nothing needs a gradient. Attention costs 4 * width of all heads *
    sequence_length a layer forward and 8 backward, the latter not below either. An adapter of rank
    r on a layer with i inputs and o outputs costs 6 * r * (i + o). If everything is trained, that
    is what ``ModelConfig.flops_per_token`` says (PaLM's rule).

    The lowest block that trains anything counts as if all of it needed gradients. Left out are
    vectors (DoRA's magnitudes and the norms they take), making 4 bits into 16, and layers that
    attend less than others because of a window count as the mean of all.

    Args:
        model: On the meta device, without adapters.
        sequence_length: Of a row.
        is_trained: Whether a parameter is, by its name; one with two names by its first.
        ranks: Of adapters, by the name of the layer.
    """
    blocks = [n for n, part in model.named_modules() if isinstance(part, model.block_classes)]
    embeddings = [n for n, part in model.named_modules() if isinstance(part, nn.Embedding)]
    top = len(blocks)

    def place(name: str) -> int:
        for index, block in enumerate(blocks):
            if name.startswith(f"{block}."):
                return index
        return -1 if name.startswith(tuple(f"{each}." for each in embeddings)) else top

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = [name for name in names.values() if is_trained(name)]
    lowest = min(map(place, [*trained, *(f"{layer}." for layer in ranks)]), default=top)
    total, multiplied = 0.0, 0
    for parameter, elements in matrices_of(model, model.experts_of_a_token):
        name = names[id(parameter)]
        # The head that is an embedding, too, is called by that, and lies at the top all the same.
        height = top if place(name) < 0 else place(name)
        needs_gradient = height > lowest or height == lowest < top
        total += 2 * elements * (1 + needs_gradient + is_trained(name))
        multiplied += elements
    attention = model.flops_per_token(sequence_length) - 6 * multiplied
    without_backward = max(lowest, 0) / top if top else 0.0
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    adapters = sum(6 * rank * sum(shapes[f"{layer}.weight"]) for layer, rank in ranks.items())
    return total + attention * (1 - without_backward * 2 / 3) + adapters
