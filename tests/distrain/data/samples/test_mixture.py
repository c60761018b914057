import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.samples.mixture import BLOCK_SAMPLES, Mixture, apportion, integer_weights

weights_of = st.lists(st.integers(0, 1000), min_size=1, max_size=7).filter(any).map(tuple)


@given(weights_of, st.integers(0, 10**15))
def test_all_seats_are_given_and_none_is_taken_back(weights, seats):
    counts, more = apportion(weights, seats), apportion(weights, seats + 1)
    assert sum(counts) == seats
    assert sum(more) == seats + 1
    assert all(a <= b for a, b in zip(counts, more, strict=True))


@given(weights_of, st.integers(0, 10**12))
def test_seats_are_the_shares_to_about_one(weights, seats):
    total = sum(weights)
    for weight, count in zip(weights, apportion(weights, seats), strict=True):
        assert abs(count - seats * weight / total) < 1 + len(weights) / 2
        assert weight or not count


@given(weights_of, st.integers(0, 300))
def test_seats_are_those_of_the_cheapest_seat_first(weights, seats):
    counts = [0] * len(weights)
    for _ in range(seats):
        price = [(2 * c + 1) / w if w else np.inf for c, w in zip(counts, weights, strict=True)]
        counts[int(np.argmin(price))] += 1
    assert apportion(weights, seats) == tuple(counts)


@given(weights_of)
def test_as_many_seats_as_weight_are_the_weights(weights):
    assert apportion(weights, sum(weights)) == weights


def test_weights_without_any_above_zero_are_refused():
    with pytest.raises(ValueError, match="at least one above zero"):
        apportion((0, 0), 5)


def test_weights_as_written_are_exact():
    assert integer_weights([0.7, 0.2, 0.1]) == (7, 2, 1)
    assert integer_weights([3, 1.5]) == (2, 1)
    assert integer_weights([1e-9, 1]) == (1, 10**9)


def drawn(mixture, count):
    sources, numbers = mixture.draw(np.arange(count))
    return sources, numbers


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**64), weights_of, st.integers(1, 3 * BLOCK_SAMPLES))
def test_each_source_is_read_up_to_a_point_and_not_beyond(seed, weights, count):
    mixture = Mixture(seed, "m", weights)
    sources, numbers = drawn(mixture, count)
    for source in range(len(weights)):
        assert numbers[sources == source].tolist() == list(range((sources == source).sum()))
    read = np.bincount(sources, minlength=len(weights))
    assert mixture.consumed(count) == tuple(read.tolist())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.lists(st.integers(1, 4000), min_size=2, max_size=4).map(tuple))
def test_by_size_reads_every_source_once_a_cycle(seed, sizes):
    mixture = Mixture(seed, "m", sizes, sizes)
    period = sum(sizes)
    assert mixture.consumed(period) == sizes
    sources, numbers = mixture.draw(np.arange(period, 2 * period))
    for source, size in enumerate(sizes):
        assert numbers[sources == source].tolist() == list(range(size, 2 * size))


@settings(deadline=None, max_examples=30)
@given(weights_of, st.booleans(), st.integers(0, 10**9))
def test_find_undoes_draw(weights, by_size, x):
    mixture = Mixture(5, "m", weights, weights if by_size else None)
    sources, numbers = mixture.draw(np.array([x]))
    assert mixture.find(int(sources[0]), int(numbers[0])) == x


def test_samples_do_not_depend_on_what_is_asked_beside_them():
    mixture = Mixture(3, "m", (5, 3, 1))
    sources, numbers = drawn(mixture, 3 * BLOCK_SAMPLES)
    for x in (0, 1, BLOCK_SAMPLES - 1, BLOCK_SAMPLES, 5000):
        alone = mixture.draw(np.array([x]))
        assert (alone[0][0], alone[1][0]) == (sources[x], numbers[x])


def test_sources_alternate_within_a_block():
    sources, _ = drawn(Mixture(0, "m", (1, 1)), BLOCK_SAMPLES)
    runs = 1 + int((np.diff(sources) != 0).sum())
    assert abs(runs - BLOCK_SAMPLES / 2) < 5 * np.sqrt(BLOCK_SAMPLES) / 2


def test_golden_vectors():
    sources, numbers = Mixture(42, "segment 0", (7, 2, 1)).draw(np.arange(8) + 10**7)
    assert sources.tolist() == GOLDEN_SOURCES
    assert numbers.tolist() == GOLDEN_NUMBERS


def test_a_source_that_is_not_read_is_not_found():
    with pytest.raises(ValueError, match="is not read"):
        Mixture(0, "m", (1, 0)).find(1, 0)


GOLDEN_SOURCES = [0, 0, 0, 0, 1, 0, 0, 1]
GOLDEN_NUMBERS = [7000020, 7000021, 7000022, 7000023, 1999985, 7000024, 7000025, 1999986]
