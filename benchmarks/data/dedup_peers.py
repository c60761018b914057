"""The peers of ``benchmarks.data.dedup``: from texts to the documents that each would drop.

``pip install rensa datasketch``; datatrove comes with ``distrain[dev]``.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from distrain.data.corpus.minhash import flatten
from distrain.data.curate.words import TextView

BANDS, ROWS, NGRAM = 14, 8, 5
PERMUTATIONS = BANDS * ROWS
THRESHOLD = 0.72
"""Where 14 bands of 8 rows are as good as open: (1/14)^(1/8)."""

Texts = Sequence[str]
Body = Callable[[Texts], set[int]]


@dataclass(frozen=True)
class Peer:
    """A way to find near-duplicates, and the package that it needs."""

    body: Body
    package: str


def ngrams(text: str) -> set[str]:
    """Cut lower-case words by a regular expression and join each five; the peers take strings."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[place : place + NGRAM]) for place in range(len(words) - NGRAM + 1)}


def rensa_flat(texts: Texts) -> set[int]:
    """Give our n-gram hashes to rensa's matrix of sketches; it flags every member of a cluster."""
    rensa = import_module("rensa")
    hashes, ends = flatten([TextView(text).shingle_hashes(NGRAM) for text in texts])
    offsets = [0, *ends.tolist()]
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, 42)
    index = rensa.RMinHashLSH(THRESHOLD, PERMUTATIONS, BANDS)
    flags = index.query_duplicate_flags_matrix_one_shot(matrix)
    return {number for number, flag in enumerate(flags) if flag}


def rensa_strings(texts: Texts) -> set[int]:
    """Give n-gram strings to rensa; a document goes if an earlier one met it."""
    rensa = import_module("rensa")
    sets = [list(ngrams(text)) for text in texts]
    sketches = rensa.RMinHash.from_token_sets(sets, PERMUTATIONS, 42)
    return _insert_in_order(rensa.RMinHashLSH(THRESHOLD, PERMUTATIONS, BANDS), sketches)


def datasketch(texts: Texts) -> set[int]:
    """Use its batched update and its in-memory index, as its documentation shows."""
    module = import_module("datasketch")
    sketches = []
    for text in texts:
        sketch = module.MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([ngram.encode() for ngram in ngrams(text)])
        sketches.append(sketch)
    return _insert_in_order(
        module.MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS)), sketches
    )


def _insert_in_order(index: Any, sketches: Sequence[Any]) -> set[int]:  # noqa: ANN401
    dropped = set()
    for number, sketch in enumerate(sketches):
        if index.query(sketch):
            dropped.add(number)
        index.insert(number, sketch)
    return dropped


def datatrove(texts: Texts) -> set[int]:
    """Run its four steps one after the other in this process."""
    minhash, config = _datatrove()
    document = import_module("datatrove.data").Document
    with tempfile.TemporaryDirectory() as folder:
        signatures, buckets, remove = (f"{folder}/{name}" for name in ("sig", "buckets", "ids"))
        documents = [document(text=text, id=str(number)) for number, text in enumerate(texts)]
        minhash.MinhashDedupSignature(signatures, config=config).run(iter(documents), 0, 1)
        for bucket in range(BANDS):
            minhash.MinhashDedupBuckets(signatures, buckets, config=config).run(None, bucket, BANDS)
        minhash.MinhashDedupCluster(buckets, remove, config=config).run(None, 0, 1)
        kept = minhash.MinhashDedupFilter(remove).run(iter(documents), 0, 1)
        return set(range(len(texts))) - {int(found.id) for found in kept}


@cache
def _datatrove() -> tuple[Any, Any]:
    minhash = import_module("datatrove.pipeline.dedup.minhash")
    import_module("loguru").logger.remove()  # a line for each step and bucket
    hashing = import_module("datatrove.utils.hashing")
    # Its default hash hands strings to xxhash, which takes bytes only since version 4.
    config = minhash.MinhashConfig(
        n_grams=NGRAM,
        num_buckets=BANDS,
        hashes_per_bucket=ROWS,
        hash_config=hashing.HashConfig(hash_fc="sha1"),
    )
    return minhash, config


PEERS = {
    "our n-gram hashes -> rensa, flat": Peer(rensa_flat, "rensa"),
    "rensa, strings": Peer(rensa_strings, "rensa"),
    "datasketch": Peer(datasketch, "datasketch"),
    "datatrove": Peer(datatrove, "datatrove"),
}
