import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.data.corpus.counts import (
    SAMPLE_CHARACTERS,
    Counts,
    RejectionSample,
    check_budget,
    sum_counts,
)
from distrain.errors import DataError

outcomes = st.lists(
    st.tuples(st.sampled_from(["train", "test", "empty", "not_utf8"]), st.integers(1, 9))
)


def count(found):
    counts = Counts()
    for outcome, size in found:
        if outcome in ("train", "test"):
            counts.keep(outcome, size)
        else:
            counts.reject(outcome)
    return counts


@given(st.lists(outcomes))
def test_counts_of_parts_add_up_to_those_of_the_whole(parts):
    whole = count([outcome for part in parts for outcome in part])
    total = sum_counts(map(count, parts))
    assert total == whole
    assert Counts.from_record(total.to_record()) == whole
    whole.check()
    assert whole.read == sum(map(len, parts))


def test_a_document_that_is_in_two_places_or_none_is_noticed():
    lost = count([("train", 3)])
    lost.read += 1
    with pytest.raises(AssertionError, match="2 documents read, 1 accounted for"):
        lost.check()
    twice = count([("train", 3)])
    twice.drop_kept("test", "duplicate", 1, 3)
    with pytest.raises(AssertionError, match="fewer than none kept"):
        twice.check()


def test_dropping_kept_documents_moves_them_to_their_reason():
    counts = count([("train", 3), ("train", 4), ("empty", 1), ("not_utf8", 1)])
    counts.drop_kept("train", "duplicate", 1, 4)
    counts.check()
    assert (counts.kept["train"], counts.text_bytes["train"]) == (1, 3)
    assert counts.dropped == {"duplicate": 1, "empty": 1, "not_utf8": 1}


def test_only_broken_documents_count_against_the_budget():
    counts = count([("empty", 1)] * 5 + [("not_utf8", 1)] * 2)
    check_budget(counts, ["a", "b"], 2)
    with pytest.raises(DataError, match="more than 1 broken files, the first: a, b"):
        check_budget(counts, ["a", "b"], 1)


@given(st.lists(st.text(max_size=4), unique=True, max_size=80), st.data())
def test_the_sample_is_the_same_however_the_rejections_come(paths, data):
    def sample(paths):
        found = RejectionSample(3)
        for path in paths:
            found.offer("short" if len(path) < 2 else "long", path, path)
        return found

    whole = sample(paths).rejections()
    cut = data.draw(st.integers(0, len(paths)))
    merged = RejectionSample(3)
    for part in (paths[cut:], paths[:cut]):
        for rejection in sample(part).rejections():
            merged.offer(rejection.reason, rejection.path, rejection.text)
    assert merged.rejections() == whole
    for reason in ("short", "long"):
        wanted = sum((len(path) < 2) == (reason == "short") for path in paths)
        assert sum(found.reason == reason for found in whole) == min(3, wanted)


def test_a_long_text_is_shown_by_its_beginning():
    sample = RejectionSample(1)
    sample.offer("long", "a", "x" * 10_000)
    sample.offer("binary", "b")
    binary, long = sample.rejections()
    assert long.text == "x" * SAMPLE_CHARACTERS
    assert binary.text is None
