"""Examples of fine-tuning that are made up."""

from collections.abc import Sequence

import numpy as np

from distrain.data.chats.example import EncodedExample


def example(
    ids: Sequence[int], *, trained_from: int, path: str = "x:1", marks: Sequence[int] = ()
) -> EncodedExample:
    """An example whose end is trained on; what is not at the places ``marks`` may go."""
    places = np.arange(len(ids))
    return EncodedExample(
        path,
        np.array(ids, np.int32),
        places >= trained_from,
        ~np.isin(places, np.array(marks, np.int64)) & (places < len(ids) - 1),
    )


def made_examples(count: int, seed: int = 0, longest: int = 30) -> list[EncodedExample]:
    """Examples of 4 to ``longest`` tokens, each with a mark at its beginning and at its end."""
    numbers = np.random.default_rng(seed)
    made = []
    for number in range(count):
        size = int(numbers.integers(4, longest + 1))
        ids = [1, *numbers.integers(5, 90, size - 2).tolist(), 2]
        trained = int(numbers.integers(2, size))
        made.append(example(ids, trained_from=trained, path=f"x:{number}", marks=(0,)))
    return made
