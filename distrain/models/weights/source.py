"""What weights are read from: names, shapes and dtypes at once, values in parts when asked.

A model larger than one host is never held whole: whoever needs a part of a parameter reads that
part, and sources put on top of each other (converted, merged, cast) hold one parameter at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Place = tuple[slice, ...]
"""A part of a tensor: one slice an axis; fewer leave the last axes whole."""
EVERYTHING: Place = ()


@dataclass(frozen=True)
class TensorForm:
    """What is known of a tensor before its values are read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def on_meta(self) -> Tensor:
        """Make a tensor of this form without memory."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


class WeightSource(Protocol):
    """Named tensors, wherever they lie. Reading is not collective."""

    @property
    def forms(self) -> Mapping[str, TensorForm]:
        """Every tensor by name, in the order in which reading all of them is cheapest."""

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Read a tensor, or a part of it, into host memory.

        What is returned may show memory that the source keeps, or a mapped file: it is not to be
        written to, and is let go before the next is read.
        """


class TensorWeights:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.forms: Mapping[str, TensorForm] = {
            name: form_of(tensor) for name, tensor in tensors.items()
        }

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Return the tensor's own memory."""
        return self._tensors[name].detach()[place]


class CastWeights:
    """Another source's tensors in other dtypes.

    Args:
        source: Of the values.
        dtype_of: Name and dtype there -> dtype here.
    """

    def __init__(
        self, source: WeightSource, dtype_of: Callable[[str, torch.dtype], torch.dtype]
    ) -> None:
        self._source = source
        self.forms: Mapping[str, TensorForm] = {
            name: TensorForm(form.shape, dtype_of(name, form.dtype))
            for name, form in source.forms.items()
        }

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Read and round."""
        return self._source.read(name, place).to(self.forms[name].dtype)


class ReshapedWeights:
    """Another source's tensors in other shapes of as many elements; read whole.

    Args:
        source: Of the values.
        shapes: By name; the others keep theirs.
    """

    def __init__(self, source: WeightSource, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._source = source
        self._shapes = shapes
        self.forms: Mapping[str, TensorForm] = {
            name: TensorForm(shapes.get(name, form.shape), form.dtype)
            for name, form in source.forms.items()
        }

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Read a part, or of a tensor in another shape everything first."""
        if name not in self._shapes:
            return self._source.read(name, place)
        return self._source.read(name).reshape(self._shapes[name])[place]


def form_of(tensor: Tensor) -> TensorForm:
    """Describe a tensor."""
    return TensorForm(tuple(tensor.shape), tensor.dtype)


def at_least_float32(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which the values of any other are exact; for ``CastWeights``.

    Whole numbers, as of a buffer that counts, stay what they are.
    """
    del name
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


def as_float32(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return float32, to which fp64 masters are rounded, but for whole numbers."""
    del name
    return torch.float32 if dtype.is_floating_point else dtype


def read_all(source: WeightSource) -> dict[str, Tensor]:
    """Read everything at once: for small models, and adapters."""
    return {name: source.read(name) for name in source.forms}
