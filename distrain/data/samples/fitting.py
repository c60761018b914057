"""Examples that are longer than a row: what of them gives way, and which are left out. Pure.

What is trained on takes its room first. Of what stands before it only contents give way, from
their beginning: the end of a question is mostly the question, and marks and the system's words say
how to read the rest.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distrain.config.chats import Truncation
from distrain.data.chats.example import EncodedExample

Effect = Literal["cut_context", "cut_end", "cut_left", "too_long", "nothing_trained"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """An example as a row can take it.

    Args:
        example: ``None``: it is left out.
        effect: What was done to it; ``None``: it is whole.
        needed: Tokens of the shortest form in which nothing that is trained on is lost.
    """

    example: EncodedExample | None
    effect: Effect | None
    needed: int

    @property
    def kept(self) -> EncodedExample:
        """The example, where it cannot be left out: with ``cut``, and marks that leave room."""
        assert self.example is not None, "a target fits behind what may not go"
        return self.example


def fit(example: EncodedExample, max_tokens: int, truncation: Truncation) -> Fitted:
    """Bring an example to at most ``max_tokens``.

    Args:
        example: As it was encoded.
        max_tokens: One more than a row: inputs and targets are the same ids, shifted by one.
        truncation: ``refuse``: contents before the first trained token give way; what then does
            not fit is left out. ``drop``: so is all that is not whole. ``cut``: contents give way,
            then the end; where that leaves no target, the example is left out. ``cut_left``:
            contents give way from the left, trained or not, up to the last trained turn; if that
            does not fit, the example is left out.
    """
    if not example.is_trained.any():
        return Fitted(None, "nothing_trained", 0)
    example = _up_to_last_target(example)
    excess = len(example.ids) - max_tokens
    before_target = np.arange(len(example.ids)) < example.num_context
    may_go = example.may_go & before_target
    needed = len(example.ids) - int(may_go.sum())
    if excess <= 0:
        return Fitted(example, None, needed)
    if truncation == "drop" or (truncation == "refuse" and needed > max_tokens):
        return Fitted(None, "too_long", needed)
    if truncation == "cut_left":
        return _fit_last_turn(example, excess, needed)
    if needed <= max_tokens:
        return Fitted(_without(example, _first_of(may_go, excess)), "cut_context", needed)
    return _cut_end(_without(example, may_go), max_tokens, needed)


def _cut_end(example: EncodedExample, max_tokens: int, needed: int) -> Fitted:
    cut = _part(example, np.arange(len(example.ids)) < max_tokens)
    # The system's words alone may fill a row; without a target it would train nothing.
    has_target = cut.is_trained[1:].any()
    return Fitted(cut, "cut_end", needed) if has_target else Fitted(None, "too_long", needed)


def _up_to_last_target(example: EncodedExample) -> EncodedExample:
    """Leave out what follows the last trained token: no target comes after it, so none sees it."""
    stop = len(example.ids) - int(example.is_trained[::-1].argmax())
    if stop == len(example.ids):
        return example
    return _part(example, np.arange(len(example.ids)) < stop)


def _fit_last_turn(example: EncodedExample, excess: int, needed: int) -> Fitted:
    trained = example.is_trained
    # Where the last run of trained tokens begins: behind the last token before it that is not.
    untrained = np.flatnonzero(~trained)
    last = int(untrained[-1]) + 1 if untrained.size else 0
    may_go = example.may_go & (np.arange(len(trained)) < last)
    if may_go.sum() < excess:
        return Fitted(None, "too_long", needed)
    gone = _first_of(may_go, excess)
    # A turn that lost its beginning would be trained to begin in the middle of a sentence.
    behind = np.concatenate([[False], gone[:-1]]) & ~gone
    kept = replace(example, is_trained=trained & ~behind)
    return Fitted(_without(kept, gone), "cut_left", needed)


def _first_of(chosen: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Keep the first ``count`` that are chosen."""
    return chosen & (np.cumsum(chosen) <= count)


def _without(example: EncodedExample, gone: NDArray[np.bool_]) -> EncodedExample:
    return _part(example, ~gone)


def _part(example: EncodedExample, kept: NDArray[np.bool_]) -> EncodedExample:
    return EncodedExample(
        example.path, example.ids[kept], example.is_trained[kept], example.may_go[kept]
    )
