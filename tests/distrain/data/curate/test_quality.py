import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.data.curate.quality import QUALITY_COLUMNS, QUANTILES, quality_figures, summarize
from distrain.data.curate.words import TextView


def figures(text):
    return quality_figures(TextView(text))


def test_figures_of_a_small_text():
    found = figures("The cat, the dog!\n\nAnd #1 with 42...\nThe cat, the dog!\n")
    # Words: The cat , the dog ! / And # 1 with 42 ... / The cat , the dog !
    assert tuple(found) == QUALITY_COLUMNS
    assert found == {
        "words": 12,
        "mean_word_length": (4 * 3 + 3 + 1 + 4 + 2 + 4 * 3) / 12,
        "alphabetic_fraction": 10 / 18,
        "symbol_ratio": 1 / 18,
        "stop_words": 2,  # the, with; as they are written
        "unique_word_fraction": 7 / 12,
        "duplicate_line_fraction": 1 / 3,
    }


def test_ellipses_and_hash_signs_count_whichever_are_more():
    assert figures("a # # b ...")["symbol_ratio"] == 2 / 5
    assert figures("a # b ... \u2026")["symbol_ratio"] == 2 / 5


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_text_without_words_is_zero_throughout(text):
    assert set(figures(text).values()) == {0.0}


@given(st.text())
def test_figures_are_in_their_range(text):
    found = figures(text)
    assert all(value >= 0 for value in found.values())
    assert all(found[name] <= 1 for name in QUALITY_COLUMNS if name.endswith("fraction"))


NUMBERS = st.lists(st.integers(0, 4095), min_size=1, max_size=50)


@given(NUMBERS, st.integers(1, 5))
def test_quantiles_of_small_integers_are_exact_however_they_come(numbers, pieces):
    column = np.array(numbers, np.float32)
    summary = summarize(np.array_split(column, pieces))
    exact = np.quantile(column, QUANTILES, method="inverted_cdf")
    assert summary.documents == len(numbers)
    assert summary.mean == pytest.approx(np.mean(numbers))
    assert list(summary.quantiles.values()) == exact.tolist()


def test_quantiles_of_any_value_are_low_by_less_than_a_two_thousandth():
    column = np.random.default_rng(0).lognormal(0, 3, 10_000).astype(np.float32)
    exact = np.quantile(column, QUANTILES, method="inverted_cdf")
    found = np.array(list(summarize([column]).quantiles.values()))
    assert ((found <= exact) & (found > exact * (1 - 1 / 2048))).all()


def test_a_source_without_documents_has_no_quantiles():
    assert summarize([]).to_record() == {"documents": 0, "mean": 0.0, "quantiles": {}}


def test_a_record_is_json():
    record = summarize([np.array([1, 2, -0.0], np.float32)]).to_record()
    assert json.loads(json.dumps(record)) == record
    assert record["quantiles"]["0.5"] == 1.0


@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_what_is_no_figure_is_refused(bad):
    with pytest.raises(ValueError, match="no figure >= 0"):
        summarize([np.array([1, bad], np.float32)])
