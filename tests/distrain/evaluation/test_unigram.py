import math

import numpy as np
import pytest

from distrain.evaluation.unigram import unigram_cross_entropy, unigram_entropy


def test_even_counts_have_the_entropy_of_the_logarithm():
    assert unigram_entropy(np.array([5, 5, 5, 5])) == pytest.approx(math.log(4))


def test_the_cross_entropy_is_never_below_the_entropy():
    counts, train = np.array([9, 1, 0, 3]), np.array([100, 400, 2, 9])
    assert unigram_cross_entropy(counts, train) > unigram_entropy(counts)


def test_an_id_that_training_never_saw_costs_finitely_much():
    assert math.isfinite(unigram_cross_entropy(np.array([0, 3]), np.array([10, 0])))


def test_by_hand():
    # smoothed train frequencies 3/5 and 2/5
    expected = -(1 * math.log(3 / 5) + 1 * math.log(2 / 5)) / 2
    assert unigram_cross_entropy(np.array([1, 1]), np.array([2, 1])) == pytest.approx(expected)


def test_no_text_has_no_figure():
    assert math.isnan(unigram_entropy(np.zeros(4, dtype=np.int64)))
