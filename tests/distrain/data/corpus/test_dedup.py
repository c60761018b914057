import dataclasses

import numpy as np
import pytest

from distrain.config.dedup import DedupConfig, MinHashConfig
from distrain.data.corpus.clusters import Reason
from distrain.data.corpus.dedup import RangeFeatures, deduplicate
from distrain.data.curate.split import text_digest
from tests.distrain.data.corpus.planted import replaced, sketches_of, words_of

BOTH = DedupConfig(minhash=MinHashConfig())
TRAIN, VALIDATION, TEST = 0, 1, 2


def features(documents, splits):
    texts = [" ".join(map(str, words)) for words in documents]
    return RangeFeatures(
        digests=np.frombuffer(b"".join(map(text_digest, texts)), np.uint8).reshape(-1, 16),
        splits=np.array(splits, np.uint8),
        sketches=sketches_of(documents),
    )


def cut(found, *places):
    parts = [
        np.split(getattr(found, field.name), places) for field in dataclasses.fields(RangeFeatures)
    ]
    return [RangeFeatures(*part) for part in zip(*parts, strict=True)]


@pytest.fixture(scope="module")
def corpus():
    one, two, three = words_of(300, 1), words_of(300, 2), words_of(300, 3)
    near_one, near_two = replaced(one, 0.01, 1), replaced(two, 0.01, 2)
    documents = [one, near_one, one, two, near_two, three, three]
    return features(documents, [TRAIN, TRAIN, TRAIN, TRAIN, TEST, TRAIN, VALIDATION])


def test_copies_near_copies_and_leaks_go_each_for_its_reason(corpus):
    (reasons,) = deduplicate([corpus], BOTH)
    assert reasons.tolist() == [
        Reason.KEPT,
        Reason.NEAR_DUPLICATE,
        Reason.DUPLICATE,
        Reason.HELD_OUT_COPY,  # near-copy of the test document after it
        Reason.KEPT,
        Reason.HELD_OUT_COPY,  # the validation document after it is equal
        Reason.KEPT,
    ]


def test_reasons_do_not_depend_on_ranges_threads_or_memory(corpus):
    (whole,) = deduplicate([corpus], BOTH)
    for places in [(3,), (0, 2, 2, 6), (1, 2, 3, 4, 5, 6)]:
        parts = deduplicate(cut(corpus, *places), BOTH, threads=2, documents_at_once=3)
        assert [part.size for part in parts] == [part.splits.size for part in cut(corpus, *places)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_what_is_not_asked_for_is_not_done(corpus):
    (nothing,) = deduplicate([corpus], DedupConfig(exact=False))
    assert not nothing.any()
    (exact,) = deduplicate([dataclasses.replace(corpus, sketches=None)], DedupConfig())
    assert exact.nonzero()[0].tolist() == [2, 5]


def test_no_ranges_give_no_reasons():
    assert deduplicate([], BOTH) == []


def test_sketches_of_another_size_are_refused(corpus):
    wrong = dataclasses.replace(corpus, sketches=corpus.sketches[:, :104])
    with pytest.raises(ValueError, match=r"range 1 have shape \(7, 104\), not \(7, 112\)"):
        deduplicate([corpus, wrong], BOTH)
