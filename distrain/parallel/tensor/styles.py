"""What each style of a plan does to a layer; ``TENSOR_STYLES`` of the plan names them.

A matrix is stored as (outputs, inputs), or the other way round by ``Conv1D``; stacked experts have
one more dim before those.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from distrain.parallel.tensor.parameters import WHOLE, ParameterCut


@dataclass(frozen=True)
class Style:
    """How a layer is cut, and what it takes and gives.

    Args:
        cuts: The side of its matrices of which each rank has a part.
        packing: The matrices that lie in one, along its outputs.
        gathers: Whether every rank gets all outputs.
        splits: Whether every rank is given all inputs.
        adds_up: Whether it is whole, and works on a part of the heads.
    """

    cuts: Literal["outputs", "inputs", "experts", "tokens"] | None = None
    packing: Literal["pair", "qkv"] | None = None
    gathers: bool = False
    splits: bool = False
    adds_up: bool = False


STYLES: Mapping[str, Style] = {
    "colwise": Style("outputs"),
    "rowwise": Style("inputs"),
    "colwise_gather_output": Style("outputs", gathers=True),
    "rowwise_split_input": Style("inputs", splits=True),
    "packed_colwise": Style("outputs", packing="pair"),
    "packed_qkv": Style("outputs", packing="qkv"),
    "replicated_with_grad_allreduce": Style(adds_up=True),
    "moe_tp_experts": Style("experts"),
    "embedding_rowwise": Style("tokens"),
    "replicate": Style(),
}


def parameter_cuts(
    layer: nn.Module, style: Style, blocks: tuple[int, ...] | None
) -> Iterator[tuple[nn.Module, str, ParameterCut]]:
    """Yield what becomes of each parameter of a layer, and of its adapters: (module, name, cut).

    A low-rank adapter computes ``B (A x)``. Where outputs are cut, B has the layer's rows, and A,
    held whole, gets from each rank what its rows add to the gradient. Where inputs are cut, A has
    the layer's columns, and B is applied to summands, of which a sum is taken behind the layer.

    Args:
        layer: A linear layer, or one of peft's around it.
        style: Of it.
        blocks: Of its packed outputs.
    """
    base = getattr(layer, "base_layer", layer)
    adapters = [*getattr(layer, "lora_A", {}).values()], [*getattr(layer, "lora_B", {}).values()]
    shared = ParameterCut(adds_up=True)
    sides = {"outputs": (shared, None), "inputs": (None, shared)}
    yield from _cuts_of(base, style.cuts, blocks, style.adds_up)
    for own, modules in zip(sides.get(style.cuts or "", (WHOLE, WHOLE)), adapters, strict=True):
        for module in modules:
            if own is None:
                yield from _cuts_of(module, style.cuts, blocks)
            else:
                yield module, "weight", own


def parameter_cut(
    layer: nn.Module, parameter: Tensor, cuts: str | None, blocks: tuple[int, ...] | None = None
) -> ParameterCut:
    """Return what becomes of a matrix, a stack of them, or a bias."""
    if cuts == "tokens":
        return ParameterCut(0)
    if cuts not in ("outputs", "inputs"):
        return WHOLE
    if parameter.ndim == 1:
        return ParameterCut(0, blocks) if cuts == "outputs" else ParameterCut(is_added_once=True)
    has_inputs_first = type(layer).__name__ == "Conv1D" or getattr(layer, "is_transposed", False)
    is_last = (cuts == "inputs") != bool(has_inputs_first)
    return ParameterCut(parameter.ndim - (1 if is_last else 2), blocks)


def _cuts_of(
    layer: nn.Module, cuts: str | None, blocks: tuple[int, ...] | None, adds_up: bool = False
) -> Iterator[tuple[nn.Module, str, ParameterCut]]:
    for key, parameter in layer._parameters.items():
        if parameter is not None:
            cut = parameter_cut(layer, parameter, cuts, blocks)
            yield layer, key, ParameterCut(adds_up=True) if adds_up else cut
