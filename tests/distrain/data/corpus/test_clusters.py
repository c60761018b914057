import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distrain.data.corpus.clusters import Clusters, Reason, choose

TRAIN, VALIDATION, TEST = 0, 1, 2


def joined(count, pairs, pieces=1):
    clusters = Clusters(count)
    for part in np.array_split(np.array(pairs, np.int64).reshape(-1, 2), pieces):
        clusters.join(part[:, 0], part[:, 1])
    return clusters


def components(count, pairs):
    """The same by flooding, one document after the other."""
    smallest = list(range(count))
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            low = min(smallest[a], smallest[b])
            changed |= smallest[a] != low or smallest[b] != low
            smallest[a] = smallest[b] = low
    return smallest


PAIRS = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=60)


@given(PAIRS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_clusters_are_the_connected_components_in_any_order(pairs, pieces, choose_order):
    expected = components(30, pairs)
    company = [n for n in range(30) if expected.count(expected[n]) > 1]
    choose_order.shuffle(pairs)
    members, heads = joined(30, pairs, pieces).members()
    assert members.tolist() == company
    assert heads.tolist() == [expected[n] for n in company]


def test_a_long_chain_is_one_cluster():
    chain = np.random.default_rng(0).permutation(100_000)
    clusters = Clusters(100_000)
    clusters.join(chain[:-1], chain[1:])
    members, heads = clusters.members()
    assert members.size == 100_000
    assert not heads.any()


def test_the_smallest_of_a_cluster_stays():
    numbers, reasons = choose(
        joined(6, [(4, 2), (5, 4), (0, 1)]), np.zeros(6, np.uint8), Reason.NEAR_DUPLICATE
    )
    assert numbers.tolist() == [1, 4, 5]
    assert set(reasons.tolist()) == {Reason.NEAR_DUPLICATE}


def test_a_held_out_document_wins_over_earlier_train_documents():
    splits = np.array([TRAIN, TRAIN, VALIDATION, VALIDATION, TRAIN, TEST, TRAIN], np.uint8)
    numbers, reasons = choose(joined(7, [(0, 2), (2, 3), (1, 5), (1, 4)]), splits, Reason.DUPLICATE)
    assert dict(zip(numbers.tolist(), reasons.tolist(), strict=True)) == {
        0: Reason.HELD_OUT_COPY,
        1: Reason.HELD_OUT_COPY,
        3: Reason.DUPLICATE,
        4: Reason.HELD_OUT_COPY,
    }


def test_the_test_split_wins_over_the_validation_split():
    splits = np.array([VALIDATION, TEST], np.uint8)
    numbers, reasons = choose(joined(2, [(0, 1)]), splits, Reason.DUPLICATE)
    assert numbers.tolist() == [0]
    assert reasons.tolist() == [Reason.HELD_OUT_COPY]


def test_a_chain_through_train_documents_is_one_cluster_with_the_held_out_one():
    splits = np.array([TRAIN, TRAIN, TEST], np.uint8)
    numbers, _ = choose(joined(3, [(0, 1), (1, 2)]), splits, Reason.NEAR_DUPLICATE)
    assert numbers.tolist() == [0, 1]


@given(PAIRS, st.lists(st.integers(0, 2), min_size=30, max_size=30))
def test_one_of_each_cluster_stays_and_no_split_keeps_a_copy_of_a_split_further_out(pairs, splits):
    numbers, _ = choose(joined(30, pairs), np.array(splits, np.uint8), Reason.DUPLICATE)
    kept = set(range(30)) - set(numbers.tolist())
    heads = components(30, pairs)
    for head in set(heads):
        cluster = [n for n in range(30) if heads[n] == head]
        furthest = max(splits[n] for n in cluster)
        assert [n for n in cluster if n in kept] == [
            min(n for n in cluster if splits[n] == furthest)
        ]
