import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.samples.order import ORDER_VERSION, Order, permute, round_keys, unpermute

seeds = st.integers(0, 2**64)


def epoch_of(seed, epoch, size, **blocks):
    order = Order(seed, "text", size, **blocks)
    return order.visit(np.arange(epoch * size, (epoch + 1) * size))[1]


def sample_index(seed, n, size):
    epochs, indices = Order(seed, "text", size).visit(np.array([n]))
    return int(epochs[0]), int(indices[0])


def test_golden_vectors_of_version_2():
    assert ORDER_VERSION == 2
    assert Order(0, "text", 10).visit(np.arange(20))[1].tolist() == TWO_EPOCHS
    assert Order(42, "text", 1000).visit(np.arange(8))[1].tolist() == THOUSAND
    assert sample_index(2**70 + 1, 10**15, 10**9 + 7) == LATE
    blocks = Order(42, "code", 1003, block_samples=16, window_blocks=4)
    assert blocks.visit(np.arange(8) + 1003)[1].tolist() == BLOCKS


@settings(deadline=None)
@given(seeds, st.integers(0, 5), st.integers(1, 700))
def test_an_epoch_visits_every_sample_once(seed, epoch, size):
    assert sorted(epoch_of(seed, epoch, size)) == list(range(size))


@settings(deadline=None)
@given(seeds, st.integers(0, 10**12), st.integers(1, 10**12))
def test_a_sample_does_not_depend_on_what_is_asked_beside_it(seed, k, size):
    alone = sample_index(seed, k, size)
    epochs, indices = Order(seed, "text", size).visit(np.arange(k, k + 3))
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
    epochs, indices = Order(1, "text", 10**12 + 7).visit(np.arange(4096) + 9 * 10**12 + 100)
    assert len(set(indices.tolist())) == 4096
    assert set(epochs.tolist()) == {9}


def test_no_samples_and_negative_places_are_refused():
    with pytest.raises(ValueError, match="'text' has no sample"):
        Order(0, "text", 0)
    with pytest.raises(ValueError, match="sample -1: no such sample"):
        Order(0, "text", 5).visit(np.array([-1]))


def test_sources_of_one_size_are_read_in_different_orders():
    web, code = (Order(0, name, 500).visit(np.arange(500))[1] for name in ("web", "code"))
    assert (web == code).sum() < 10


@settings(deadline=None)
@given(seeds, st.integers(1, 10**12), st.data())
def test_unpermute_undoes_permute(seed, size, data):
    places = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1)))
    keys = round_keys(seed, "any")
    assert np.array_equal(unpermute(keys, permute(keys, places, size), size), places)


shapes = st.tuples(st.integers(1, 3000), st.integers(1, 64), st.integers(1, 9))


@settings(deadline=None)
@given(seeds, st.integers(0, 3), shapes)
def test_an_epoch_in_blocks_visits_every_sample_once_and_is_found_again(seed, epoch, shape):
    size, block, window = shape
    order = Order(seed, "text", size, block_samples=block, window_blocks=window)
    n = np.arange(epoch * size, (epoch + 1) * size)
    epochs, indices = order.visit(n)
    assert sorted(indices) == list(range(size))
    assert set(epochs) == {epoch}
    assert np.array_equal(order.find(epoch, indices), n)


@settings(deadline=None)
@given(seeds, shapes)
def test_a_window_needs_few_blocks(seed, shape):
    size, block, window = shape
    visited = epoch_of(seed, 0, size, block_samples=block, window_blocks=window)
    for start in range(0, size, block * window):
        blocks = set((visited[start : start + block * window] // block).tolist())
        # Where the short block lies before, a window begins and ends within a block.
        assert len(blocks) <= window + 1


def test_samples_are_mixed_within_a_window():
    visited = epoch_of(3, 0, 64 * 64, block_samples=64, window_blocks=64)
    assert abs(np.corrcoef(visited[:-1], visited[1:])[0, 1]) < 5 / 64


TWO_EPOCHS = [0, 1, 8, 6, 5, 2, 4, 9, 3, 7, 1, 0, 4, 2, 3, 7, 6, 8, 5, 9]
THOUSAND = [620, 379, 630, 564, 460, 563, 535, 295]
LATE = (999999, 182550914)
BLOCKS = [603, 3, 601, 0, 235, 406, 606, 238]
