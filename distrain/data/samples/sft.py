"""Examples of fine-tuning before they are laid out: prompts exchanged."""

from collections.abc import Sequence

import numpy as np

from distrain.data.chats.example import EncodedExample
from distrain.data.samples.order import permute, round_keys


def shuffle_prompts(examples: Sequence[EncodedExample], seed: int) -> list[EncodedExample]:
    """Give each answer the prompt of another example; every prompt is used once.

    What a model loses by it is what it took from the prompt. The examples form one circle in an
    order fixed by ``seed``, and each takes what stands before the first trained token of the next.

    Raises:
        ValueError: There is no other example.
    """
    count = len(examples)
    if count < 2:
        raise ValueError(f"{count} examples; shuffling prompts needs two")
    # One circle through all: a plain permutation may leave an example its own prompt.
    circle = permute(round_keys(seed, "prompts"), np.arange(count), count)
    donor = dict(zip(circle.tolist(), np.roll(circle, -1).tolist(), strict=True))
    return [_with_context_of(own, examples[donor[n]]) for n, own in enumerate(examples)]


def _with_context_of(own: EncodedExample, other: EncodedExample) -> EncodedExample:
    # All of it, marks too: a token may reach from the prompt into what follows it.
    kept, taken = slice(own.num_context, None), slice(other.num_context)
    return EncodedExample(
        own.path,
        np.concatenate([other.ids[taken], own.ids[kept]]),
        np.concatenate([other.is_trained[taken], own.is_trained[kept]]),
        np.concatenate([other.may_go[taken], own.may_go[kept]]),
    )
