"""The parts of a block that read the residual stream and write to it, such as attention and MLP."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from distrain.parallel.tensor.styles import Style

StyleOf = Callable[[str], Style | None]
"""What the plan says of a module, or of a parameter, by its name."""


@dataclass(frozen=True)
class Region:
    """A child of a block.

    Args:
        name: In the model.
        module: The child.
        kind: *parts*: every rank computes its part of it from end to end. *whole*: ranks compute
            alike, but for layers within that take care of that themselves. *layer*: a single
            layer that is cut. *stream*: each position by itself, as norms do.
    """

    name: str
    module: nn.Module
    kind: Literal["parts", "whole", "layer", "stream"]


def regions_of(name: str, block: nn.Module, style_of: StyleOf) -> Iterator[Region]:
    """Yield the parts of a block that have parameters; lists of modules are looked into."""
    for key, child in block.named_children():
        path = f"{name}.{key}"
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from regions_of(path, child, style_of)
        elif any(True for _ in child.parameters()):
            yield Region(path, child, _kind(path, child, style_of))


def _kind(
    name: str, child: nn.Module, style_of: StyleOf
) -> Literal["parts", "whole", "layer", "stream"]:
    own = style_of(name)
    if own is not None and own.cuts is not None:
        return "layer"
    if not any(child.children()):
        return "stream"
    styles = list(_styles_within(name, child, style_of))
    # A layer without a style that reads the stream would have a part of its gradient on each rank,
    # and one behind gathered outputs all of it. Which it is, only the family's code says: so
    # whatever a plan does not wholly describe is computed alike.
    sides = [None if style is None else style.cuts for style in styles]
    is_described = None not in styles and "experts" not in sides
    return "parts" if is_described and {"outputs", "inputs"} <= {*sides} else "whole"


def _styles_within(name: str, module: nn.Module, style_of: StyleOf) -> Iterator[Style | None]:
    for key, child in module.named_children():
        path = f"{name}.{key}"
        own = style_of(path)
        if own is not None:
            yield own
        else:
            yield from _styles_within(path, child, style_of)
    if any(parameter is not None for parameter in module._parameters.values()):
        yield None
