import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.runs.folder import StageFolder
from distrain.runs.phases import WHOLE, Share, prepare_progress


@given(st.integers(0, 50), st.integers(1, 60))
def test_shares_are_a_partition_of_the_ranges(ranges, count):
    shares = [list(Share(index, count).numbers(ranges)) for index in range(count)]
    assert sorted(number for share in shares for number in share) == list(range(ranges))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_whole_is_one_share():
    assert list(WHOLE.numbers(3)) == [0, 1, 2]


def test_a_share_is_read_as_it_is_written():
    assert Share.parse(str(Share(2, 8))) == Share(2, 8)


@pytest.mark.parametrize("text", ["8/8", "1", "a/b", "-1/2", "0/0", "1/2/3", "0/2\n", ""])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match="INDEX/COUNT"):
        Share.parse(text)


@pytest.mark.parametrize(
    ("cleaned", "encoded", "text"),
    [
        (0, 0, "0 of 3 ranges cleaned"),
        (2, 0, "2 of 3 ranges cleaned"),
        (3, 0, "0 of 3 ranges encoded"),
        (3, 1, "1 of 3 ranges encoded"),
    ],
)
def test_progress_is_told_of_the_phase_at_work(tmp_path, cleaned, encoded, text):
    folder = StageFolder(tmp_path, "prepare")
    assert prepare_progress(folder) is None
    folder.path.mkdir()
    sources = {"a": {"ranges": [1, 2]}, "b": {"ranges": [3]}}
    folder.plan.write_text(json.dumps({"sources": sources}))
    for parent, count, prefix in ((folder.cleaned, cleaned, "_"), (folder.encoded, encoded, "")):
        for number in range(count):
            record = parent / ("a" if number < 2 else "b") / f"{prefix}{number:05d}.json"
            record.parent.mkdir(parents=True, exist_ok=True)
            record.touch()
    assert str(prepare_progress(folder)) == text
