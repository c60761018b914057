"""Pairs as samples of fine-tuning: encoded, one a row, with targets in the answer only."""

from collections.abc import Iterator, Sequence

import numpy as np

from distrain.data.pairs.reading import Pair
from distrain.data.samples.order import permute, round_keys
from distrain.data.samples.rows import IGNORE_INDEX, Ids, SftDataset
from distrain.data.tokenizer.prompts import pair_ids
from distrain.data.tokenizer.tokenizer import Tokenizer


def sft_dataset(pairs: Sequence[Pair], tokenizer: Tokenizer, sequence_length: int) -> SftDataset:
    """Encode pairs, one a sample of ``sequence_length``, with targets in the answer only."""
    examples = list(encode_pairs(pairs, tokenizer, sequence_length))
    return SftDataset(examples, sequence_length, pad_id=tokenizer.pad_id)


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: Tokenizer, sequence_length: int
) -> Iterator[tuple[Ids, Ids]]:
    """Yield input and target ids of each pair, at most ``sequence_length`` of them.

    The answer and the token that ends it are the targets; see ``prompts.pair_ids`` for what
    happens to pairs that are too long.
    """
    prompts = tokenizer.encode_batch([pair.prompt for pair in pairs])
    answers = tokenizer.encode_batch([pair.answer for pair in pairs])
    for prompt, answer in zip(prompts, answers, strict=True):
        # One token more than a sample: inputs and targets are the same ids, shifted by one.
        ids, before = pair_ids(tokenizer, prompt, answer, max_tokens=sequence_length + 1)
        row = np.array(ids, np.int64)
        targets = row[1:].copy()
        # The last token of the prompt is trained on: it predicts the first of the answer.
        targets[: before - 1] = IGNORE_INDEX
        yield row[:-1], targets


def shuffle_prompts(pairs: Sequence[Pair], seed: int) -> list[Pair]:
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
    return [
        Pair(pairs[donor[number]].prompt, pair.answer, pair.path)
        for number, pair in enumerate(pairs)
    ]
