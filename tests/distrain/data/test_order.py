import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.order import ORDER_VERSION, sample_index, sample_indices

seeds = st.integers(0, 2**64)


def epoch_of(seed, epoch, size):
    return sample_indices(seed, np.arange(epoch * size, (epoch + 1) * size), size)[1]


def test_golden_vectors_of_version_1():
    assert ORDER_VERSION == 1
    two_epochs = sample_indices(0, np.arange(20), 10)[1].tolist()
    assert two_epochs == [8, 2, 1, 3, 5, 6, 9, 4, 0, 7, 5, 4, 3, 1, 6, 2, 0, 9, 8, 7]
    thousand = sample_indices(42, np.arange(8), 1000)[1].tolist()
    assert thousand == [149, 640, 47, 376, 972, 363, 681, 44]
    assert sample_index(2**70 + 1, 10**15, 10**9 + 7) == (999_999, 431_755_108)


@settings(deadline=None)
@given(seeds, st.integers(0, 5), st.integers(1, 700))
def test_an_epoch_visits_every_sample_once(seed, epoch, size):
    assert sorted(epoch_of(seed, epoch, size)) == list(range(size))


@settings(deadline=None)
@given(seeds, st.integers(0, 10**12), st.integers(1, 10**12))
def test_a_sample_does_not_depend_on_what_is_asked_beside_it(seed, k, size):
    alone = sample_index(seed, k, size)
    epochs, indices = sample_indices(seed, np.arange(k, k + 3), size)
    assert alone == (epochs[0], indices[0])
    assert alone[0] == k // size
    assert 0 <= alone[1] < size


@settings(deadline=None)
@given(seeds, st.integers(0, 1000))
def test_epochs_and_seeds_differ(seed, epoch):
    here = epoch_of(seed, epoch, 200)
    assert not np.array_equal(here, epoch_of(seed, epoch + 1, 200))
    assert not np.array_equal(here, epoch_of(seed + 1, epoch, 200))


@pytest.mark.parametrize("size", [1000, 4096, 12_345])
def test_neighbours_are_not_correlated(size):
    rows = np.stack([epoch_of(seed, 0, size) for seed in range(20)]).astype(float)
    correlation = [np.corrcoef(row[:-1], row[1:])[0, 1] for row in rows]
    # The standard error of one is about 1 / sqrt(size).
    assert abs(np.mean(correlation)) < 5 / np.sqrt(20 * size)
    assert np.max(np.abs(correlation)) < 5 / np.sqrt(size)


@pytest.mark.parametrize("size", [7, 64, 1000])
def test_each_sample_is_equally_likely_at_each_place(size):
    trials = 1500
    first = np.array([sample_index(seed, 3, size)[1] for seed in range(trials)])
    buckets = min(size, 16)
    observed = np.bincount(first * buckets // size, minlength=buckets)
    sizes = np.bincount(np.arange(size) * buckets // size, minlength=buckets)
    expected = trials * sizes / size
    chi_square = ((observed - expected) ** 2 / expected).sum()
    # Mean buckets - 1, standard deviation sqrt(2 * (buckets - 1)).
    assert chi_square < buckets - 1 + 5 * np.sqrt(2 * (buckets - 1))


def test_the_order_of_a_trillion_samples_needs_no_memory():
    epochs, indices = sample_indices(1, np.arange(4096) + 9 * 10**12 + 100, 10**12 + 7)
    assert len(set(indices.tolist())) == 4096
    assert set(epochs.tolist()) == {9}


def test_no_samples_and_negative_places_are_refused():
    with pytest.raises(ValueError, match="of 0: no such sample"):
        sample_index(0, 0, 0)
    with pytest.raises(ValueError, match="sample -1 of 5"):
        sample_index(0, -1, 5)
