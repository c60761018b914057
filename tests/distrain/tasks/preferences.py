"""Pairs made up on the spot, as encoded and as samples, and a microbatch of them."""

import numpy as np

from distrain.data.chats.example import EncodedExample
from distrain.data.samples.datasets import gather
from distrain.data.samples.loader import Microbatch
from distrain.data.samples.pairs import EncodedPair, PairDataset

VOCAB_SIZE = 61
SEQUENCE_LENGTH = 24


def encoded(path, prompt, answer):
    ids = np.array([*prompt, *answer], np.int32)
    is_trained = np.arange(len(ids)) >= len(prompt)
    may_go = ~is_trained & (np.arange(len(ids)) > 0)  # the first token is a mark
    return EncodedExample(path, ids, is_trained, may_go)


def pair_of(prompt, chosen, rejected, path="pairs.jsonl:1"):
    return EncodedPair(encoded(path, prompt, chosen), encoded(path, prompt, rejected))


def made_pairs(count, seed=0):
    """Prompts and answers of unequal lengths; the chosen one counts up, the rejected one down."""
    pairs = []
    for number in range(count):
        dice = np.random.default_rng(1000 * seed + number)
        prompt = dice.integers(0, VOCAB_SIZE, dice.integers(2, 9))
        start, sizes = dice.integers(0, VOCAB_SIZE), dice.integers(1, 12, 2)
        chosen = (start + np.arange(sizes[0])) % VOCAB_SIZE
        rejected = (start - 1 - np.arange(sizes[1])) % VOCAB_SIZE
        pairs.append(pair_of(prompt, chosen, rejected, f"pairs.jsonl:{number + 1}"))
    return pairs


def dataset_of(pairs, reference=None):
    dataset = PairDataset(pairs, SEQUENCE_LENGTH, pad_id=0)
    dataset.reference = reference
    return dataset


def microbatch_of(dataset, indices):
    rows = gather(dataset, np.array(indices))
    return Microbatch.from_rows(rows, 0, len(indices))
