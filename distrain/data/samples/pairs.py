"""Layer 3: preferences as samples: a pair of answers to one prompt is a row of two documents.

So a pair stays together however a batch is cut, padding lies behind both answers and not behind
each, and all else of a row of several examples holds for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distrain.config.chats import Truncation
from distrain.data.chats.example import CHOSEN, EncodedExample
from distrain.data.samples.datasets import Signature
from distrain.data.samples.examples import ExampleDataset, ExampleTokens
from distrain.data.samples.fitting import Effect, fit
from distrain.data.samples.order import Ints
from distrain.data.samples.packing import PackPlan
from distrain.data.samples.rows import RowBuffer


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Two answers to the same prompt as ids, each with the prompt before it."""

    chosen: EncodedExample
    rejected: EncodedExample

    @property
    def path(self) -> str:
        """Where the pair was read."""
        return self.chosen.path.removesuffix(CHOSEN)


@dataclass(frozen=True, slots=True)
class FittedPair:
    """A pair as a row can take it; see ``fitting.Fitted``.

    Args:
        pair: ``None``: it is left out.
        effect: What was done to either of its answers.
        needed: Tokens of the longer answer in the shortest form in which nothing trained is lost.
    """

    pair: EncodedPair | None
    effect: Effect | None
    needed: int


def fit_pair(pair: EncodedPair, max_tokens: int, truncation: Truncation) -> FittedPair:
    """Bring each answer of a pair, with its prompt, to at most ``max_tokens``.

    What the longer answer takes from the prompt, the other one's prompt loses as well: two answers
    are compared after the same words. A pair of which one answer does not fit is left out.
    """
    found = [fit(example, max_tokens, truncation) for example in (pair.chosen, pair.rejected)]
    needed = max(part.needed for part in found)
    effect = next((part.effect for part in found if part.effect is not None), None)
    if any(part.example is None for part in found):
        out = next(part.effect for part in found if part.example is None)
        return FittedPair(None, out, needed)
    lost = [
        example.num_context - part.kept.num_context
        for example, part in zip((pair.chosen, pair.rejected), found, strict=True)
    ]
    made = [
        _without_first(part.kept, max(lost) - own) for part, own in zip(found, lost, strict=True)
    ]
    return FittedPair(EncodedPair(*made), effect, needed)


def _without_first(example: EncodedExample, count: int) -> EncodedExample:
    """Leave out so many of the first tokens of contents before the answer."""
    if not count:
        return example
    may_go = example.may_go & (np.arange(len(example.ids)) < example.num_context)
    kept = ~(may_go & (np.cumsum(may_go) <= count))
    return replace(
        example,
        ids=example.ids[kept],
        is_trained=example.is_trained[kept],
        may_go=example.may_go[kept],
    )


class PairDataset(ExampleDataset):
    """Sample i is pair i: its chosen answer, then its rejected one.

    Attributes:
        reference: Log-probabilities of both by the model before the stage, float64, shape
            (pairs, 2); ``None``: they are computed in each step, or not yet.
    """

    def __init__(self, pairs: Sequence[EncodedPair], sequence_length: int, *, pad_id: int) -> None:
        examples = [example for pair in pairs for example in (pair.chosen, pair.rejected)]
        tokens = ExampleTokens.of(examples)
        plan = PackPlan(
            2 * sequence_length,
            2,
            2 * np.arange(len(pairs) + 1),
            tokens.starts,
            tokens.num_inputs().astype(np.uint32),
        )
        super().__init__(tokens, 2 * sequence_length, pad_id=pad_id, plan=plan)
        self.reference: NDArray[np.float64] | None = None

    @property
    def signature(self) -> Signature:
        """Equal for datasets that make the same samples of the same content."""
        return ("preferences",)

    def fill(self, buffer: RowBuffer, rows: Ints, indices: Ints) -> None:
        """Write the samples ``indices``, and what the reference says of them, into ``rows``."""
        super().fill(buffer, rows, indices)
        if self.reference is None:
            return
        if buffer.row_values is None:
            buffer.row_values = np.zeros((len(buffer.input_ids), 2))
        buffer.row_values[rows] = self.reference[indices]
