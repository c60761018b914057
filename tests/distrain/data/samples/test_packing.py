from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.samples.packing import PACK_VERSION, PackedIndex, plan_best_fit

documents = st.lists(st.integers(0, 40), max_size=40)
lengths = st.integers(1, 16)
windows = st.integers(1, 12)


def ends_of(sizes):
    return np.cumsum(np.array(sizes, np.int64)).astype("<u8")


def bins_of(plan):
    """List the (start, length) pieces of each bin."""
    pieces = list(zip(plan.starts.tolist(), plan.lengths.tolist(), strict=True))
    edges = plan.first_piece.tolist()
    return [pieces[first:stop] for first, stop in pairwise(edges)]


def best_fit_decreasing(sizes, length):
    """Do what the paper says, item by item: the inputs in each bin."""
    loads: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [number for number, load in enumerate(loads) if load + size <= length]
        if fitting:
            loads[max(fitting, key=loads.__getitem__)] += size
        else:
            loads.append(size)
    return loads


def realistic_sizes(count=20_000, seed=0):
    return np.random.default_rng(seed).lognormal(6.2, 1.1, count).astype(np.int64) + 2


def test_golden_vectors_of_version_1():
    assert PACK_VERSION == 1
    sizes = [5, 3, 22, 1, 9, 4, 4, 7, 2, 0, 6, 12, 3, 9, 2, 17]
    plan = plan_best_fit(ends_of(sizes), 8, window_documents=10)
    assert bins_of(plan) == [
        [(0, 4), (44, 3), (55, 1)],
        [(5, 2), (48, 6)],
        [(8, 8)],
        [(16, 8)],
        [(24, 5), (40, 3)],
        [(31, 8)],
        [(57, 5), (71, 3)],
        [(63, 8)],
        [(75, 2), (87, 1)],
        [(78, 8)],
        [(89, 8)],
        [(97, 8)],
    ]
    assert plan.padding() == pytest.approx(5 / 96)
    many = plan_best_fit(ends_of(np.arange(3000) ** 3 % 4001), 2048, window_documents=1000)
    places = np.arange(1, len(many.starts) + 1)
    assert (many.num_bins, len(many.starts)) == (2948, 4448)
    assert (places * many.starts).sum() == 39_242_355_875_913
    assert (places * many.lengths).sum() == 13_596_174_643


@given(documents, lengths, windows)
def test_every_pair_of_every_document_is_in_one_bin_once(sizes, length, window):
    plan = plan_best_fit(ends_of(sizes), length, window)
    inputs = [token for start, size in zip(plan.starts.tolist(), plan.lengths.tolist(), strict=True)
              for token in range(start, start + size)]  # fmt: skip
    last = set((ends_of(sizes).astype(np.int64) - 1).tolist())
    # A target is the token behind its input: of the same document, as no input is a last token.
    assert sorted(inputs) == [token for token in range(sum(sizes)) if token not in last]


@given(documents, lengths, windows)
def test_bins_hold_no_more_than_fits_and_are_in_order(sizes, length, window):
    bins = bins_of(plan_best_fit(ends_of(sizes), length, window))
    assert all(0 < sum(size for _, size in pieces) <= length for pieces in bins)
    assert all(pieces == sorted(pieces) for pieces in bins)
    assert [pieces[0] for pieces in bins] == sorted(pieces[0] for pieces in bins)


@given(documents, lengths, windows)
def test_documents_are_cut_only_where_they_are_longer_than_a_bin(sizes, length, window):
    ends = ends_of(sizes).astype(np.int64)
    plan = plan_best_fit(ends, length, window)
    pieces_of_document = np.bincount(
        np.searchsorted(ends, plan.starts, side="right"), minlength=len(sizes)
    )
    assert pieces_of_document.tolist() == [-(-max(size - 1, 0) // length) for size in sizes]


@given(documents, lengths, windows)
def test_a_bin_holds_documents_of_one_window(sizes, length, window):
    ends = ends_of(sizes).astype(np.int64)
    for pieces in bins_of(plan_best_fit(ends, length, window)):
        numbers = np.searchsorted(ends, [start for start, _ in pieces], side="right")
        assert len(set((numbers // window).tolist())) == 1


@given(documents, lengths, windows)
def test_a_window_is_planned_as_if_it_were_alone(sizes, length, window):
    # So a plan depends on where windows begin, and documents sharded in another way make other
    # bins: what stays is only that each document is there once.
    whole = bins_of(plan_best_fit(ends_of(sizes), length, window))
    alone = []
    for first in range(0, len(sizes), window):
        before = sum(sizes[:first])
        plan = plan_best_fit(ends_of(sizes[first : first + window]), length, window)
        alone += [[(start + before, size) for start, size in pieces] for pieces in bins_of(plan)]
    assert whole == alone


@settings(deadline=None)
@given(st.lists(st.integers(0, 70), max_size=150), st.integers(1, 64))
def test_bins_are_as_full_as_those_of_the_published_algorithm(sizes, length):
    # Between bins of equal space the paper leaves the choice open; loads do not depend on it.
    parts = [(size - 1) % length for size in sizes if size > 1 and (size - 1) % length]
    expected = best_fit_decreasing(parts, length)
    expected += [length] * sum((size - 1) // length for size in sizes if size > 1)
    plan = plan_best_fit(ends_of(sizes), length)
    assert sorted(sum(size for _, size in pieces) for pieces in bins_of(plan)) == sorted(expected)


@pytest.mark.parametrize("length", [1024, 2048, 8192])
def test_padding_and_cut_documents_on_realistic_lengths(length):
    sizes = realistic_sizes()
    plan = plan_best_fit(ends_of(sizes), length)
    inputs = sizes - 1
    assert plan.padding() < 0.002

    first_fit: list[int] = []
    for part in (inputs % length).tolist():
        # First fit without its search: only the last 64 open bins, as streaming packers have it.
        for number in range(max(0, len(first_fit) - 64), len(first_fit)):
            if first_fit[number] + part <= length:
                first_fit[number] += part
                break
        else:
            first_fit.append(part)
    bins = len(first_fit) + (inputs // length).sum()
    assert plan.padding() < (1 - inputs.sum() / (bins * length)) / 2

    # Concatenating fills all and cuts documents: here, those that would fit into one sample.
    first, last = np.cumsum(inputs) - inputs, np.cumsum(inputs) - 1
    is_short = inputs <= length
    cut = (first // length != last // length) & is_short
    pieces = np.bincount(np.searchsorted(np.cumsum(sizes), plan.starts, side="right"))
    assert cut.sum() > is_short.sum() * 0.05
    assert (pieces[is_short] == 1).all()


@pytest.mark.parametrize("sizes", [[], [0], [1], [1, 1, 0, 1]])
def test_documents_without_a_target_give_nothing(sizes):
    plan = plan_best_fit(ends_of(sizes), 4)
    assert (plan.num_bins, plan.first_piece.tolist(), plan.padding()) == (0, [0], 0.0)
    assert [plan.starts.dtype.str, plan.lengths.dtype.str] == ["<i8", "<u4"]


def test_a_document_far_longer_than_a_bin_and_than_32_bits():
    length = 1 << 22
    plan = plan_best_fit(np.array([10, 10 + (1 << 34)], "<u8"), length)
    assert plan.num_bins == 1 + (1 << 34) // length
    assert plan.starts[:4].tolist() == [0, 10, 10 + length, 10 + 2 * length]
    assert plan.lengths[:3].tolist() == [9, length, length]
    # One input fewer than tokens leaves the last chunk one place short: not enough for nine.
    assert plan.starts[-1] == 10 + (1 << 34) - length
    assert plan.lengths[-1] == length - 1


@pytest.mark.parametrize("dtype", ["<u8", "<i8", "<u4", "<i4"])
def test_ends_of_any_type_make_one_plan(dtype):
    ends = np.cumsum(realistic_sizes(500))
    expected, found = (plan_best_fit(values, 512) for values in (ends, ends.astype(dtype)))
    for name in ("first_piece", "starts", "lengths"):
        assert getattr(expected, name).tolist() == getattr(found, name).tolist()
        assert getattr(expected, name).dtype == getattr(found, name).dtype


@pytest.mark.parametrize(("length", "window"), [(0, 1), (-1, 5), (8, 0)])
def test_bins_and_windows_of_nothing_are_refused(length, window):
    with pytest.raises(ValueError, match=f"bins of {length} positions from windows of {window} "):
        plan_best_fit(ends_of([3]), length, window)


@given(st.lists(documents, min_size=1, max_size=5), lengths, st.data())
def test_samples_of_several_shards_in_any_order(shards, length, data):
    plans = [plan_best_fit(ends_of(sizes), length, 7) for sizes in shards]
    index = PackedIndex(plans)
    expected = [
        [(number, start, size) for start, size in pieces]
        for number, plan in enumerate(plans)
        for pieces in bins_of(plan)
    ]
    assert index.num_samples == len(expected)
    some = st.lists(st.integers(0, len(expected) - 1)) if expected else st.just([])
    indices = data.draw(some)
    pieces = index.pieces_of(np.array(indices, np.int64))
    assert [part.dtype for part in pieces] == [np.int64] * 4
    found = list(zip(*(part.tolist() for part in pieces), strict=True))
    assert found == [
        (row, *piece) for row, sample in enumerate(indices) for piece in expected[sample]
    ]


def test_samples_that_are_not_there():
    index = PackedIndex([plan_best_fit(ends_of(sizes), 4) for sizes in ([5, 5], [], [9])])
    assert index.num_samples == 4
    for sample in (-1, 4, 10**12):
        with pytest.raises(IndexError, match=f"sample {sample} of 4"):
            index.pieces_of(np.array([0, sample, 2]))
