import logging

import pytest

from distrain.config.labels import PairChecksConfig
from distrain.data.pairs.reading import Pair
from distrain.errors import DataError
from distrain.stages.sft_data import check_pairs

PAIRS = [
    Pair("What is 1 + 1?", "2", "pairs.jsonl:1"),
    Pair("What is 1 + 1?", "3", "pairs.jsonl:2"),
    Pair("What is 2 + 2?", "4", "pairs.jsonl:3"),
    Pair("What is 2 + 2?", "4", "pairs.jsonl:4"),
]


def test_pairs_that_contradict_or_repeat_each_other_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        check_pairs(PAIRS, PairChecksConfig())
    assert "1 of 4 pairs repeat an earlier one" in caplog.text
    assert "2 of 4 pairs have a prompt with several answers" in caplog.text
    assert "pairs.jsonl:1" in caplog.text


def test_more_contradictions_than_allowed_are_refused():
    with pytest.raises(DataError, match=r"data\.checks\.max_conflict_fraction"):
        check_pairs(PAIRS, PairChecksConfig(max_conflict_fraction=0.25))


def test_pairs_without_a_fault_are_not_remarked_upon(caplog):
    check_pairs(PAIRS[1:3], PairChecksConfig(max_conflict_fraction=0.0))
    assert not caplog.text
