"""Pairs as samples of fine-tuning: encoded, one a row, with targets in the answer only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.chats.pairs_file import Pair
from distrain.data.samples.datasets import SftDataset
from distrain.data.samples.order import permute, round_keys
from distrain.data.samples.rows import Ids
from distrain.data.tokenizer.layouts import ChatLayout, LaidOutPair, fitted


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Ids of a pair, int32: what comes before the prompt, it, what is between, and the answer.

    The answer holds the token that ends it; see ``LaidOutPair``.
    """

    before: NDArray[np.int32]
    prompt: NDArray[np.int32]
    between: NDArray[np.int32]
    answer: NDArray[np.int32]

    @property
    def num_marks(self) -> int:
        """Count what is neither prompt nor answer."""
        return len(self.before) + len(self.between)


@dataclass(frozen=True)
class Lengths:
    """Which pairs do not fit into a sample.

    Args:
        pairs: How many there are.
        long_answers: Numbers of those whose answer alone does not fit.
        longest: Tokens of the longest answer, with its marks and its end: the sequence length
            that it needs.
        cut_prompts: Pairs whose answer fits and whose prompt loses its beginning.
    """

    pairs: int
    long_answers: tuple[int, ...]
    longest: int
    cut_prompts: int


def encode_pairs(pairs: Sequence[Pair], layout: ChatLayout) -> list[EncodedPair]:
    """Encode prompts and answers as the model will see them."""
    return [
        EncodedPair(
            *(
                np.array(ids, np.int32)
                for ids in (pair.before, pair.prompt, pair.between, pair.answer)
            )
        )
        for pair in layout.pairs([(pair.prompt, pair.answer) for pair in pairs])
    ]


def measure_lengths(encoded: Sequence[EncodedPair], sequence_length: int) -> Lengths:
    """Compare pairs with the room there is in a sample of ``sequence_length``."""
    room = sequence_length + 1
    answers = np.array([pair.num_marks + len(pair.answer) for pair in encoded], np.int64)
    prompts = np.array([len(pair.prompt) for pair in encoded], np.int64)
    is_long = answers > room
    return Lengths(
        len(encoded),
        tuple(np.flatnonzero(is_long).tolist()),
        int(answers.max(initial=0)) - 1,
        int((~is_long & (prompts + answers > room)).sum()),
    )


def sft_dataset(encoded: Sequence[EncodedPair], pad_id: int, sequence_length: int) -> SftDataset:
    """Lay out pairs, one a sample of ``sequence_length``, with targets in the answer only."""
    examples = [lay_out(pair, sequence_length) for pair in encoded]
    return SftDataset(examples, sequence_length, pad_id=pad_id)


def lay_out(pair: EncodedPair, sequence_length: int) -> tuple[Ids, Ids]:
    """Return input and target ids of a pair, at most ``sequence_length`` of them.

    The answer and the token that ends it are the targets; see ``layouts.fitted`` for what happens
    to pairs that are too long.
    """
    parts = (pair.before, pair.prompt, pair.between, pair.answer)
    # One token more than a sample: inputs and targets are the same ids, shifted by one.
    ids, before = fitted(LaidOutPair(*(part.tolist() for part in parts)), sequence_length + 1)
    row = np.array(ids, np.int64)
    targets = row[1:].copy()
    # The last token of the prompt is trained on: it predicts the first of the answer.
    targets[: before - 1] = IGNORE_INDEX
    return row[:-1], targets


Kind = TypeVar("Kind", Pair, EncodedPair)


def shuffle_prompts(pairs: Sequence[Kind], seed: int) -> list[Kind]:
    """Give each answer the prompt of another pair; every prompt is used once.

    What a model loses by it is what it took from the prompt. The pairs form one circle in an
    order fixed by ``seed``, and each takes the prompt of the next.

    Raises:
        ValueError: There is no other pair.
    """
    count = len(pairs)
    if count < 2:
        raise ValueError(f"{count} pairs; shuffling prompts needs two")
    # One circle through all pairs: a plain permutation may leave a pair its own prompt.
    circle = permute(round_keys(seed, "prompts"), np.arange(count), count)
    donor = dict(zip(circle.tolist(), np.roll(circle, -1).tolist(), strict=True))
    return [_with_prompt_of(pair, pairs[donor[n]]) for n, pair in enumerate(pairs)]


def _with_prompt_of(pair: Kind, other: Kind) -> Kind:
    if isinstance(pair, EncodedPair) and isinstance(other, EncodedPair):
        # A token may reach from the prompt into what follows it.
        return replace(pair, before=other.before, prompt=other.prompt, between=other.between)
    return replace(pair, prompt=other.prompt)
