"""Layer 3: examples of fine-tuning as samples: one a row, or packed whole into bins.

Targets are chosen by position, never by id: in many vocabularies what fills up a row is also what
ends an answer.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.chats.example import EncodedExample
from distrain.data.samples.datasets import Signature
from distrain.data.samples.feed import OrderedStream
from distrain.data.samples.order import Ints, Order
from distrain.data.samples.packing import PACK_VERSION, PackPlan, plan_best_fit
from distrain.data.samples.rows import Ids, RowBuffer


@dataclass(frozen=True)
class ExampleTokens:
    """Examples laid end to end: 5 bytes a token.

    Args:
        ids: int32, shape (tokens,).
        is_trained: Which of them are targets; bool, shape (tokens,).
        ends: Where each example ends; int64, shape (examples,).
    """

    ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]
    ends: Ints

    @classmethod
    def of(cls, examples: Sequence[EncodedExample]) -> Self:
        """Copy examples, in their order."""
        none = np.empty(0)
        return cls(
            np.concatenate([none, *(example.ids for example in examples)]).astype(np.int32),
            np.concatenate([none, *(example.is_trained for example in examples)]).astype(np.bool_),
            np.cumsum([len(example.ids) for example in examples], dtype=np.int64),
        )

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.ends)

    @property
    def starts(self) -> Ints:
        """Where each example begins, shape (examples,)."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])[: len(self.ends)]

    def inputs_and_targets(self, number: int) -> tuple[Ids, Ids]:
        """Return input and target ids of an example of n tokens, each int64 of shape (n - 1,)."""
        start, stop = int(self.starts_at(number)), int(self.ends[number])
        ids = self.ids[start:stop].astype(np.int64)
        targets = np.where(self.is_trained[start + 1 : stop], ids[1:], IGNORE_INDEX)
        return ids[:-1], targets

    def starts_at(self, number: int) -> int:
        """Return where an example begins."""
        return int(self.ends[number - 1]) if number else 0

    def digest(self) -> str:
        """Hash what is trained on: inputs and targets of each example."""
        content = hashlib.blake2b(digest_size=16)
        for number in range(len(self)):
            for part in self.inputs_and_targets(number):
                content.update(part.tobytes())
        return content.hexdigest()

    def num_inputs(self) -> Ints:
        """Positions that each example fills, shape (examples,)."""
        return self.ends - self.starts - 1

    def num_trained_of(self, ids: Sequence[int]) -> int:
        """Count the trained tokens that are one of ``ids``."""
        return int(np.isin(self.ids[self.is_trained], ids).sum())

    def num_targets(self) -> Ints:
        """Targets of each example, shape (examples,): its first token is none."""
        before = np.concatenate([[0], np.cumsum(self.is_trained, dtype=np.int64)])
        counts: Ints = before[self.ends] - before[self.starts + 1]
        return counts


class ExampleDataset:
    """Examples in rows of ``sequence_length``, each a document of its own.

    Args:
        tokens: At most ``sequence_length`` + 1 of an example.
        sequence_length: T.
        pad_id: Fills up the inputs.
        plan: Bins of whole examples; ``None``: sample i is example i.
    """

    needed_only = True
    """Whether a pass computes only what targets need. Runs of older versions computed all, and are
    resumed so: sums of other shapes differ in their last bits."""

    def __init__(
        self,
        tokens: ExampleTokens,
        sequence_length: int,
        *,
        pad_id: int,
        plan: PackPlan | None = None,
    ) -> None:
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.pad_id = pad_id
        self.plan = plan
        starts, every = tokens.starts, np.arange(len(tokens))
        self._firsts = np.arange(len(tokens) + 1) if plan is None else plan.first_piece
        # No example is longer than a bin, so that each piece is one.
        self._members = every if plan is None else np.searchsorted(starts, plan.starts)

    @property
    def signature(self) -> Signature:
        """Equal for datasets that make the same samples of the same content."""
        if self.plan is None:
            return ("pairs",)  # as it was called when there was nothing else
        return ("examples", "best_fit", PACK_VERSION, self.plan.window_documents)

    def __len__(self) -> int:
        """Count the samples."""
        return len(self._firsts) - 1

    def members(self, index: int) -> Ints:
        """Return the numbers of the examples of a sample, in the order in which they lie."""
        return self._members[self._firsts[index] : self._firsts[index + 1]]

    def samples_with(self, example: int) -> Ints:
        """Return the samples that hold an example: one, or none if it has no input."""
        (places,) = np.nonzero(self._members == example)
        return np.searchsorted(self._firsts, places, side="right") - 1

    def sums(self, values: Ints) -> Ints:
        """Add up a figure of the examples, shape (examples,), in each sample, shape (samples,)."""
        total = np.concatenate([[0], np.cumsum(values[self._members], dtype=np.int64)])
        sums: Ints = total[self._firsts[1:]] - total[self._firsts[:-1]]
        return sums

    def longest(self) -> Ints:
        """Return the inputs of the longest example in each sample, shape (samples,)."""
        if not len(self):
            return np.empty(0, np.int64)
        # A sample holds at least one example, so that no stretch of the members is empty.
        sizes = self.tokens.num_inputs()[self._members]
        return np.maximum.reduceat(sizes, self._firsts[:-1])

    def padding(self) -> float:
        """Compute the share of positions, 0 to 1, that hold no input."""
        positions = len(self) * self.sequence_length
        return 1 - int(self.sums(self.tokens.num_inputs()).sum()) / positions if positions else 0.0

    def fill(self, buffer: RowBuffer, rows: Ints, indices: Ints) -> None:
        """Write the samples ``indices`` into ``rows`` of the buffer."""
        buffer.clear(rows, self.pad_id)
        buffer.needed_only = self.needed_only
        begins = []
        for row, index in zip(rows.tolist(), indices.tolist(), strict=True):
            place = 0
            for number in self.members(index).tolist():
                inputs, targets = self.tokens.inputs_and_targets(number)
                stop = place + len(inputs)
                buffer.input_ids[row, place:stop] = inputs
                buffer.target_ids[row, place:stop] = targets
                place = stop
                # What follows begins anew: another example, or padding that no target sees.
                if place < self.sequence_length:
                    begins.append(row * self.sequence_length + place)
            buffer.padding[row] = self.sequence_length - place
        buffer.begin_documents(np.array(begins, np.int64))


class ExampleStream(OrderedStream):
    """Examples in a keyed order.

    Args:
        dataset: Lays them out.
        order: Of its samples.
    """

    dataset: ExampleDataset

    def __init__(self, dataset: ExampleDataset, order: Order) -> None:
        super().__init__(dataset, order, dataset.tokens.digest())
        tokens = dataset.tokens
        # A fitted example ends with a target, so a row is needed up to its last example's end.
        lengths = dataset.sums(tokens.num_inputs())
        if not dataset.needed_only:
            lengths = np.full_like(lengths, dataset.sequence_length)
        targets = dataset.sums(tokens.num_targets())
        self._costs = np.stack([lengths, targets, dataset.longest()], axis=1)

    def costs(self, n: Ints) -> Ints | None:
        """Look the samples' lengths up; see ``OpenedSource``."""
        return self._costs[self.order.visit(n)[1]]


def example_dataset(
    examples: Sequence[EncodedExample], sequence_length: int, *, pad_id: int, packing: str = "none"
) -> ExampleDataset:
    """Lay out examples, each of at most ``sequence_length`` + 1 tokens.

    Args:
        examples: In the order that numbers them.
        sequence_length: T.
        pad_id: Fills up rows.
        packing: ``none`` or ``best_fit``.
    """
    tokens = ExampleTokens.of(examples)
    plan = plan_best_fit(tokens.ends, sequence_length) if packing == "best_fit" else None
    return ExampleDataset(tokens, sequence_length, pad_id=pad_id, plan=plan)
