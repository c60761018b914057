"""Near-duplicates: megabytes of text per CPU-second from texts to documents to drop, and by part.

    python -m benchmarks.data.dedup [--megabytes 5] [--rounds 5]

The corpus is real text with copies planted in it: one document in ten comes again with 2 % of its
words replaced. Every body but the exact one uses word 5-grams and 14 bands of 8 minima.
"""

import argparse
import hashlib
import os
import random
import re
import statistics
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from benchmarks.data.dedup_peers import PEERS, PERMUTATIONS
from benchmarks.data.text import real_texts
from benchmarks.measuring import Sample, interleaved, machine_line, median_ratio, table
from distrain.config.dedup import DecontaminateConfig, DedupConfig, MinHashConfig
from distrain.data.corpus.clusters import Reason
from distrain.data.corpus.decontaminate import NgramSet, collect_ngrams, count_ngrams, find_overlap
from distrain.data.corpus.dedup import RangeFeatures, deduplicate
from distrain.data.corpus.minhash import flatten, sketch
from distrain.data.curate.quality import quality_figures
from distrain.data.curate.split import text_digest
from distrain.data.curate.words import TextView

OURS = "distrain"
PLANTED_EVERY = 10
REPLACED = 0.02
HELD_OUT_EVERY = 20


class Corpus:
    """Texts, and which of them are planted copies of earlier ones."""

    def __init__(self, megabytes: float) -> None:
        originals = real_texts(megabytes)
        copies = [replace_words(text, seed) for seed, text in enumerate(originals[::PLANTED_EVERY])]
        self.texts = originals + copies
        self.planted = set(range(len(originals), len(self.texts)))
        self.megabytes = sum(len(text.encode()) for text in self.texts) / 1e6


def replace_words(text: str, seed: int) -> str:
    """Replace ``REPLACED`` of the words of two letters and more."""
    choose = random.Random(seed)
    places = [match.span() for match in re.finditer(r"[a-z]{2,}", text)]
    parts, end = [], 0
    for start, stop in sorted(choose.sample(places, round(REPLACED * len(places)))):
        parts += [text[end:start], "".join(choose.choices("abcdefgh", k=10))]
        end = stop
    return "".join([*parts, text[end:]])


def features(texts: list[str], *, sketches: bool = True) -> RangeFeatures:
    """Compute what ``prepare`` writes down of each document."""
    digests = b"".join(map(text_digest, texts))
    hashes = [TextView(text).shingle_hashes(5) for text in texts] if sketches else []
    return RangeFeatures(
        np.frombuffer(digests, np.uint8).reshape(-1, 16),
        np.zeros(len(texts), np.uint8),
        sketch(*flatten(hashes), PERMUTATIONS) if sketches else None,
    )


def drop(found: RangeFeatures) -> set[int]:
    """Decide by MinHash."""
    (reasons,) = deduplicate([found], DedupConfig(exact=False, minhash=MinHashConfig()))
    return set(np.flatnonzero(reasons != Reason.KEPT).tolist())


def compare(corpus: Corpus, rounds: int) -> str:
    """Interleave ours and the peers."""
    bodies: dict[str, Callable[[], set[int]]] = {OURS: lambda: drop(features(corpus.texts))}
    for name, peer in PEERS.items():
        if find_spec(peer.package) is None:
            print(f"left out: {name} ({peer.package} is not installed)")
            continue
        bodies[name] = partial(peer.body, corpus.texts)
    dropped: dict[str, set[int]] = {}

    def run(name: str) -> Callable[[], None]:
        return lambda: dropped.__setitem__(name, bodies[name]())

    samples = interleaved({name: run(name) for name in bodies}, rounds)
    rates = {name: _rates(corpus, of) for name, of in samples.items()}
    rows = [
        [
            name,
            f"{statistics.median(rates[name]):.2f}",
            f"{median_ratio(rates[name], rates[OURS]):.3f}",
            f"{len(dropped[name] & corpus.planted)} of {len(corpus.planted)}",
            f"{len(dropped[name])}",
        ]
        for name in bodies
    ]
    head = ["text -> documents to drop", "MB per CPU-s (median)", f"of {OURS}"]
    return table([*head, "planted found", "dropped"], rows)


def parts(corpus: Corpus, rounds: int) -> str:
    """Measure the parts of ours, each from what the one before it left."""
    texts, config = corpus.texts, DecontaminateConfig()
    flat = flatten([TextView(text).shingle_hashes(5) for text in texts])
    sketched = features(texts)
    long = [TextView(text).shingle_hashes(config.ngram) for text in texts]
    counts = count_ngrams(long[::HELD_OUT_EVERY])
    evidence = NgramSet(collect_ngrams([counts], np.zeros(0, np.uint64), config))
    look_up = flatten(long)
    bodies: dict[str, Callable[[], object]] = {
        "word split": lambda: [TextView(text).split for text in texts],
        "word split, 5-gram hashes": lambda: [TextView(text).shingle_hashes(5) for text in texts],
        "word split, quality columns": lambda: [quality_figures(TextView(text)) for text in texts],
        "5-gram hashes -> sketch": lambda: sketch(*flat, PERMUTATIONS),
        "sketches -> documents to drop": lambda: drop(sketched),
        "13-gram hashes -> shared with held-out": lambda: find_overlap(*look_up, evidence),
        "exact: text -> documents to drop": lambda: deduplicate(
            [features(texts, sketches=False)], DedupConfig()
        ),
        "exact: blake2b alone": lambda: [
            hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts
        ],
    }
    samples = interleaved({name: _quiet(body) for name, body in bodies.items()}, rounds)
    rows = [[name, f"{statistics.median(_rates(corpus, of)):.1f}"] for name, of in samples.items()]
    return table(["part", "MB of text per CPU-s (median)"], rows)


def _quiet(body: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        body()

    return run


def _rates(corpus: Corpus, samples: list[Sample]) -> list[float]:
    return [corpus.megabytes / sample.cpu_s for sample in samples]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    # Read when rensa first sketches, and when datatrove first shows a bar.
    os.environ |= {"RAYON_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    corpus = Corpus(arguments.megabytes)
    packages = sorted({"numpy", *(peer.package for peer in PEERS.values())})
    versions = ", ".join(f"{name} {version(name)}" for name in packages if find_spec(name))
    print(f"{corpus.megabytes:.1f} MB, {len(corpus.texts)} documents; {machine_line()}, {versions}")
    features(corpus.texts)  # tables of characters
    for peer in PEERS.values():
        if find_spec(peer.package) is not None:
            peer.body(corpus.texts[:3])  # imports and word models
    print(compare(corpus, arguments.rounds), parts(corpus, arguments.rounds), sep="\n\n")
    print(f"\n{machine_line()}")


if __name__ == "__main__":
    main()
