"""Pairs as samples of fine-tuning: encoded, one a row, with targets in the answer only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.pairs.reading import Pair
from distrain.data.samples.datasets import SftDataset
from distrain.data.samples.order import permute, round_keys
from distrain.data.samples.rows import Ids
from distrain.data.tokenizer.prompts import pair_ids, room_for_pair
from distrain.data.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Ids of a pair, int32, without marks."""

    prompt: NDArray[np.int32]
    answer: NDArray[np.int32]


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


def encode_pairs(pairs: Sequence[Pair], tokenizer: Tokenizer) -> list[EncodedPair]:
    """Encode prompts and answers."""
    prompts = tokenizer.encode_batch([pair.prompt for pair in pairs])
    answers = tokenizer.encode_batch([pair.answer for pair in pairs])
    return [
        EncodedPair(np.array(prompt, np.int32), np.array(answer, np.int32))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def measure_lengths(
    encoded: Sequence[EncodedPair], tokenizer: Tokenizer, sequence_length: int
) -> Lengths:
    """Compare pairs with the room there is in a sample of ``sequence_length``."""
    room = room_for_pair(tokenizer, sequence_length + 1)
    answers = np.array([len(pair.answer) for pair in encoded], np.int64)
    prompts = np.array([len(pair.prompt) for pair in encoded], np.int64)
    is_long = answers > room
    return Lengths(
        len(encoded),
        tuple(np.flatnonzero(is_long).tolist()),
        sequence_length + int(answers.max(initial=0)) - room,
        int((~is_long & (prompts + answers > room)).sum()),
    )


def sft_dataset(
    encoded: Sequence[EncodedPair], tokenizer: Tokenizer, sequence_length: int
) -> SftDataset:
    """Lay out pairs, one a sample of ``sequence_length``, with targets in the answer only."""
    examples = [lay_out(pair, tokenizer, sequence_length) for pair in encoded]
    return SftDataset(examples, sequence_length, pad_id=tokenizer.pad_id)


def lay_out(pair: EncodedPair, tokenizer: Tokenizer, sequence_length: int) -> tuple[Ids, Ids]:
    """Return input and target ids of a pair, at most ``sequence_length`` of them.

    The answer and the token that ends it are the targets; see ``prompts.pair_ids`` for what
    happens to pairs that are too long.
    """
    # One token more than a sample: inputs and targets are the same ids, shifted by one.
    ids, before = pair_ids(
        tokenizer, pair.prompt.tolist(), pair.answer.tolist(), max_tokens=sequence_length + 1
    )
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
    return [replace(pair, prompt=pairs[donor[n]].prompt) for n, pair in enumerate(pairs)]
