"""Tensors under other names, fused or taken apart, one conversion at a time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from distrain.models.weights.source import (
    EVERYTHING,
    Place,
    TensorForm,
    WeightSource,
    form_of,
)


@dataclass(frozen=True)
class Rename:
    """One tensor, as it is."""

    source: str
    target: str


@dataclass(frozen=True)
class Fusion:
    """Some tensors that become others: experts stacked, projections joined, or the opposite.

    Args:
        sources: Names of what goes in.
        convert: Makes what comes out, by name; must run on meta tensors too.
    """

    sources: tuple[str, ...]
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]]


Conversion = Rename | Fusion


class ConvertedWeights:
    """Another source's tensors after conversions; what one made is kept while it is asked for.

    Raises:
        ValueError: Two conversions make the same tensor, or what one needs does not fit together.
    """

    def __init__(self, source: WeightSource, conversions: Iterable[Conversion]) -> None:
        self._source = source
        self._made_by: dict[str, Conversion] = {}
        self._last: tuple[Fusion, dict[str, Tensor]] | None = None
        forms: dict[str, TensorForm] = {}
        for conversion in conversions:
            for name, form in _forms_after(source, conversion).items():
                if name in forms:
                    raise ValueError(f"{name} is there twice, under {_names(conversion)} too")
                forms[name] = form
                self._made_by[name] = conversion
        self.forms: Mapping[str, TensorForm] = forms

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Read what the tensor is made of, and convert it."""
        conversion = self._made_by[name]
        if isinstance(conversion, Rename):
            # A stage holds its source until its end: what was made would stay with it.
            self._last = None
            return self._source.read(conversion.source, place)
        if self._last is None or self._last[0] is not conversion:
            self._last = None  # let go before the next is read
            # The conversion takes what it has used out of its argument, so that it is freed.
            parts = {source: self._source.read(source) for source in conversion.sources}
            self._last = conversion, conversion.convert(parts)
        return self._last[1][name][place]


def _forms_after(source: WeightSource, conversion: Conversion) -> dict[str, TensorForm]:
    if isinstance(conversion, Rename):
        return {conversion.target: source.forms[conversion.source]}
    parts = {name: source.forms[name].on_meta() for name in conversion.sources}
    try:
        made = conversion.convert(parts)
    except (RuntimeError, ValueError, IndexError) as error:
        shapes = {source.forms[name].shape for name in conversion.sources}
        raise ValueError(
            f"{_names(conversion)} of shapes {sorted(shapes)} do not fit together ({error})"
        ) from error
    return {name: form_of(tensor) for name, tensor in made.items()}


def _names(conversion: Conversion) -> str:
    if isinstance(conversion, Rename):
        return conversion.source
    first, *others = conversion.sources
    return f"{first} and {len(others)} more" if others else first
