"""Documents as lists of words, and near-copies of them with a known share of words replaced."""

import random

import numpy as np

from distrain.data.corpus.minhash import flatten, mix, sketch

VOCABULARY = 5000


def words_of(length, seed):
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def replaced(words, share, seed):
    """Replace a share of the words, at random places, by words that occur nowhere else."""
    choose = random.Random(seed)
    words = list(words)
    for place in choose.sample(range(len(words)), round(share * len(words))):
        words[place] = VOCABULARY + choose.randrange(10**9)
    return words


def ngram_hashes(words, size=5):
    """Hash every run of ``size`` words; the hash of a run is that of its words, one by one."""
    hashes = mix(np.array(words, np.uint64))
    count = max(hashes.size - size + 1, 0)
    ngrams = np.zeros(count, np.uint64)
    for place in range(size):
        ngrams = mix(ngrams ^ hashes[place : place + count])
    return ngrams


def sketches_of(documents, permutations=112, size=5):
    hashes, ends = flatten([ngram_hashes(words, size) for words in documents])
    return sketch(hashes, ends, permutations)


def jaccard(first, second, size=5):
    one, other = set(ngram_hashes(first, size).tolist()), set(ngram_hashes(second, size).tolist())
    return len(one & other) / len(one | other)
