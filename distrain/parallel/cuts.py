"""Axes along which a model itself is cut: how, and in which order, before FSDP2 cuts the rest."""

from collections.abc import Callable
from pkgutil import resolve_name

from torch import nn

from distrain.parallel.model_spec import ModelSpec
from distrain.parallel.ranks import Ranks

Cut = Callable[[nn.Module, Ranks, ModelSpec], None]

CUTS: dict[str, str] = {
    "expert": "distrain.parallel.experts.cutting:cut",
    "tensor": "distrain.parallel.tensor.cutting:cut_along_tensor",
    "context": "distrain.parallel.context.cut:cut_columns",
}
"""Axis -> what changes a model on the meta device in place, in the order in which it happens; by
name, because each imports what only it needs. A new one is a room beside these and a line here."""


def cut_along_axes(module: nn.Module, ranks: Ranks, spec: ModelSpec) -> None:
    """Cut a model, which is single-device code on the meta device, along the axes there are.

    Collective.
    """
    for axis, name in CUTS.items():
        if ranks.layout.size(axis) > 1:
            cut: Cut = resolve_name(name)
            cut(module, ranks, spec)
