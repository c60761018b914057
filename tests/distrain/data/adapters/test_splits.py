import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.adapters.foreign import Reading
from distrain.data.adapters.opening import open_files
from distrain.data.adapters.splits import StreamRange, split_stream
from distrain.data.shards.reader import ShardedTokens
from distrain.errors import DataError
from tests.distrain.data.adapters.foreign_files import make_documents, read_back, write_datatrove


class ListShard:
    def __init__(self, documents):
        self._ids = np.array([token for ids in documents for token in ids], np.uint16)
        self.ends = np.cumsum([len(ids) for ids in documents], dtype=np.uint64)
        self.num_tokens = len(self._ids)
        self.num_documents = len(documents)

    def tokens(self, start, stop):
        return self._ids[start:stop]


DOCUMENTS = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=6), max_size=6)
SHARDS = st.lists(DOCUMENTS, min_size=1, max_size=5).filter(
    lambda shards: sum(len(documents) for documents in shards) >= 3
)


@settings(max_examples=100, deadline=None)
@given(SHARDS, st.floats(0.01, 0.49), st.floats(0.01, 0.49))
def test_the_splits_are_the_stream_cut_at_documents(shards, validation, test):
    stream = ShardedTokens([ListShard(documents) for documents in shards], eos_id=0)
    whole = read_back(stream)
    try:
        splits = split_stream(stream, validation, test)
    except DataError:
        count = len(whole)
        assert max(1, round(count * validation)) + max(1, round(count * test)) >= count
        return
    assert list(splits) == ["train", "validation", "test"]
    assert [ids for split in splits.values() for ids in read_back(split)] == whole
    for split in splits.values():
        assert split.num_documents == split.stop - split.first >= 1
        expected = [token for ids in whole[split.first : split.stop] for token in ids]
        assert split.tokens(0, 10**6).tolist() == expected
        assert split.num_tokens == len(expected)
        middle = len(expected) // 2
        assert split.tokens(middle, middle + 3).tolist() == expected[middle : middle + 3]


def test_a_range_never_shows_what_lies_behind_it():
    stream = ShardedTokens([ListShard([[1, 1], [2, 2], [3, 3]])], eos_id=None)
    (shard,) = StreamRange(stream, 1, 2).shards
    assert shard.tokens(0, 100).tolist() == [2, 2]
    assert shard.tokens(3, 100).tolist() == []


def test_nothing_is_copied(tmp_path):
    write_datatrove(tmp_path / "a.ds", make_documents(50))
    stream = open_files("datatrove", [str(tmp_path)], Reading())
    for split in split_stream(stream, 0.1, 0.1).values():
        (shard,) = split.shards
        assert np.shares_memory(shard.tokens(0, 5), stream.shards[0].tokens(0, stream.num_tokens))


def test_too_few_documents_are_refused():
    stream = ShardedTokens([ListShard([[1], [2]])], eos_id=None)
    with pytest.raises(DataError, match="2 documents; expected more than 1 for the validation"):
        split_stream(stream, 0.1, 0.1)
