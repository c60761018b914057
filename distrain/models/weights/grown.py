"""Tables over the vocabulary with rows for new tokens, made as they are read."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distrain.models.weights.source import EVERYTHING, Place, TensorForm, WeightSource

READ_ELEMENTS = 1 << 22
"""Of a table, at a time, while its mean is taken: 16 MiB in float32."""


@dataclass(frozen=True)
class Growth:
    """Tokens that a vocabulary gets.

    Args:
        known: Ids below it are tokens already; rows beyond are spare, as of a padded table.
        stop: Ids from ``known`` up to it are new.
    """

    known: int
    stop: int

    def rows(self, rows: int) -> int:
        """Return the rows of a table of so many once all tokens have one."""
        return max(rows, self.stop)


class GrownWeights:
    """Another source's tensors, in which each new token has the mean of the known ones.

    The rows that a table lacks are added; spare ones, which nothing has trained, are used first and
    get the mean too. The mean is that of all rows with a token, summed in float64 in a fixed order
    and rounded once: the same bits whatever part is read. Only who reads a new row reads the table.

    Args:
        source: Of the values.
        axes: Name of each table -> its axis of tokens.
        growth: Which tokens are new.
    """

    def __init__(self, source: WeightSource, axes: Mapping[str, int], growth: Growth) -> None:
        self._source = source
        self._axes = axes
        self._growth = growth
        self._means: dict[str, Tensor] = {}
        self.forms: Mapping[str, TensorForm] = {
            name: self._grown(name, form) for name, form in source.forms.items()
        }

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Read what there is, and put the mean behind it."""
        axis = self._axes.get(name)
        if axis is None:
            return self._source.read(name, place)
        shape = self.forms[name].shape
        place = (*place, *[slice(None)] * (len(shape) - len(place)))
        first, last, _ = place[axis].indices(shape[axis])
        known, stop = self._growth.known, self._growth.stop
        if last <= known or first >= stop:
            return self._source.read(name, _with(place, axis, slice(first, last)))
        parts = []
        if first < known:
            parts.append(self._source.read(name, _with(place, axis, slice(first, known))))
        mean = self._mean(name)[_with(place, axis, slice(None))]
        new = min(last, stop) - max(first, known)
        parts.append(mean.expand(*[new if n == axis else -1 for n in range(len(shape))]))
        if last > stop:  # spare rows that no new token takes stay as they are
            parts.append(self._source.read(name, _with(place, axis, slice(stop, last))))
        return torch.cat(parts, dim=axis)

    def _grown(self, name: str, form: TensorForm) -> TensorForm:
        axis = self._axes.get(name)
        if axis is None:
            return form
        rows = self._growth.rows(form.shape[axis])
        shape = (*form.shape[:axis], rows, *form.shape[axis + 1 :])
        return TensorForm(shape, form.dtype)

    @torch.no_grad()
    def _mean(self, name: str) -> Tensor:
        """Return the mean over the known tokens, of length 1 in their axis; kept once made."""
        if name in self._means:
            return self._means[name]
        form, axis = self._source.forms[name], self._axes[name]
        known = self._growth.known
        rows = max(1, READ_ELEMENTS * form.shape[axis] // max(1, form.on_meta().numel()))
        total: Tensor | None = None
        for first in range(0, known, rows):
            place = _with(
                (slice(None),) * len(form.shape), axis, slice(first, min(first + rows, known))
            )
            part = _summed(self._source.read(name, place).double().transpose(0, axis))
            total = part if total is None else total + part
        assert total is not None, "a vocabulary has tokens"
        self._means[name] = (total / known).to(form.dtype).transpose(0, axis)
        return self._means[name]


def _with(place: Place, axis: int, part: slice) -> Place:
    return (*place[:axis], part, *place[axis + 1 :])


def _summed(rows: Tensor) -> Tensor:
    """Add up rows, halves to each other: an order that no library, thread or machine chooses."""
    while rows.shape[0] > 1:
        half = rows.shape[0] // 2
        rows = torch.cat([rows[:half] + rows[half : 2 * half], rows[2 * half :]])
    return rows
