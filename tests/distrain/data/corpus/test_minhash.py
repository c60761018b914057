import hashlib
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.data.corpus.minhash import (
    EMPTY,
    SKETCH_VERSION,
    TILE,
    estimate_similarity,
    flatten,
    meeting_probability,
    mix,
    sketch,
)

GOLDEN_HEAD = [
    [463121847, 1253654574, 132503390, 1218045111],
    [3895182237, 3717471529, 1163871852, 323902224],
]
"""Of n-grams 1, 2, 3 and of 2^64 - 1, computed with Python's integers by the formula."""
GOLDEN_DIGEST = "a1e78ac61736e65958d6b68ebcc55acd75e8dc675ad51116041abfe1834c2cdf"


def hashes_of(*numbers):
    return np.array(numbers, np.uint64)


def random_hashes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


def pair_of_similarity(shared, apart, seed):
    """Two documents that share ``shared`` n-grams and have ``apart`` each of their own."""
    drawn = random_hashes(shared + 2 * apart, seed)
    hashes = np.concatenate([drawn[: shared + apart], drawn[:shared], drawn[shared + apart :]])
    return hashes, np.array([shared + apart, 2 * (shared + apart)])


def test_a_sketch_never_changes():
    assert SKETCH_VERSION == 1
    two = sketch(hashes_of(1, 2, 3, 2**64 - 1), np.array([3, 4]))
    assert two.shape == (2, 112)
    assert two.dtype == np.uint32
    assert two[0, :4].tolist() == GOLDEN_HEAD[0]
    assert two[1, :4].tolist() == GOLDEN_HEAD[1]
    many = sketch(np.arange(200_000, dtype=np.uint64) ** 3, np.arange(100, 200_001, 100))
    digest = hashlib.sha256(np.ascontiguousarray(many, "<u4").tobytes()).hexdigest()
    assert digest == GOLDEN_DIGEST


def test_a_sketch_is_the_minimum_of_the_sketches_of_its_parts():
    hashes = random_hashes(1000)
    singles = sketch(hashes, np.arange(1, 1001))
    assert np.array_equal(sketch(hashes, np.array([1000]))[0], singles.min(axis=0))


@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=6), max_size=12),
    st.integers(1, 3),
)
def test_a_sketch_depends_on_the_set_of_its_own_document_alone(documents, repeats):
    together = sketch(*flatten([hashes_of(*document) for document in documents]), 16)
    for document, row in zip(documents, together, strict=True):
        alone = hashes_of(*sorted(set(document)) * repeats)
        assert np.array_equal(row, sketch(alone, np.array([alone.size]), 16)[0])


def test_tiles_leave_no_trace():
    hashes = random_hashes(3 * TILE)
    ends = np.array([10, 10, TILE + 5, TILE + 6, 2 * TILE + 6, 3 * TILE])
    together = sketch(hashes, ends, 8)
    for row, (start, end) in zip(together, zip([0, *ends[:-1]], ends, strict=True), strict=True):
        assert np.array_equal(row, sketch(hashes[start:end], np.array([end - start]), 8)[0])


def test_a_document_without_ngrams_has_the_empty_sketch():
    row = sketch(hashes_of(7), np.array([0, 1, 1]))
    assert (row[[0, 2]] == EMPTY).all()
    assert not (row[1] == EMPTY).all()
    assert sketch(hashes_of(), np.zeros(0, np.int64)).shape == (0, 112)


def test_the_first_minima_of_a_longer_sketch_are_the_shorter_sketch():
    hashes = random_hashes(50)
    ends = np.array([20, 50])
    assert np.array_equal(sketch(hashes, ends, 112)[:, :30], sketch(hashes, ends, 30))


def test_a_band_lies_together_in_memory():
    assert sketch(random_hashes(50), np.array([20, 50])).flags.f_contiguous


@pytest.mark.parametrize(("shared", "apart"), [(20, 20), (60, 20), (300, 50), (3000, 400)])
def test_the_estimate_has_the_mean_and_the_error_of_theory(shared, apart):
    similarity = shared / (shared + 2 * apart)
    estimates = []
    for seed in range(200):
        first, second = sketch(*pair_of_similarity(shared, apart, seed))
        estimates.append(float(estimate_similarity(first[None], second[None])[0]))
    error = (similarity * (1 - similarity) / 112) ** 0.5
    assert abs(statistics.mean(estimates) - similarity) < 4 * error / 200**0.5
    # Permutations that depend on one another would show as a larger spread.
    assert 0.8 * error < statistics.stdev(estimates) < 1.25 * error


def test_meeting_probability():
    assert meeting_probability(1.0, 14, 8) == 1.0
    assert meeting_probability(0.0, 14, 8) == 0.0
    assert meeting_probability(0.6847, 14, 8) == pytest.approx(0.5, abs=1e-3)
    assert meeting_probability(0.5, 1, 1) == 0.5


def test_mix_is_murmur3s_finalizer():
    # Values of the reference fmix64.
    assert mix(hashes_of(0, 1)).tolist() == [0, 0xB456BCFC34C2CB2C]
