import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.shards.reader import ShardedTokens, open_split
from distrain.data.tokenizer.reader import NO_TOKEN, Reader
from distrain.tools.sampling import choose, show
from tests.distrain.data.made_corpus import make_texts, write_split


class Counted(ShardedTokens):
    def __init__(self, documents):
        super().__init__([], eos_id=None)
        self.first_document = [0, documents]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 30), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_chosen_documents_are_different_ones_of_any_stream(counts, number, seed):
    streams = [Counted(count) for count in counts]
    found = choose(streams, number, seed)
    assert len(set(found)) == len(found) == min(number, sum(counts))
    assert all(0 <= entry.document < counts[entry.stream] for entry in found)
    assert found == choose(streams, number, seed)
    places = [(entry.stream, entry.document) for entry in found]
    assert places == sorted(places)


def test_every_document_is_as_likely():
    streams = [Counted(3), Counted(0), Counted(1)]
    found = [entry for seed in range(400) for entry in choose(streams, 1, seed)]
    counts = [found.count(entry) for entry in choose(streams, 4, 0)]
    assert sum(counts) == 400
    assert min(counts) > 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    texts = [*make_texts(20), "what <|endoftext|> is: äöü\x1b[31m", ""]
    tokenizer = write_split(folder, "train", texts, shard_tokens=300)
    return texts, tokenizer, open_split(folder, "train", stage_kind="pretrain")


def test_documents_read_as_they_were_written(made):
    texts, tokenizer, split = made
    reader = Reader(tokenizer)
    for number, text in enumerate(texts):
        record = show(split, number, reader, max_tokens=0, with_ids=False)
        *body, end = record["pieces"]
        # Characters that look like a control token are text; the token itself stands apart.
        assert [piece["text"] for piece in body] == ([text] if text else [])
        assert end == {"control": "<|endoftext|>", "id": tokenizer.eos_id}
        assert record["name"] == f"made/{number}.txt"
        shard, start, stop = split.document_span(number)
        assert (record["shard"], record["first_token"]) == (shard, start)
        assert record["tokens"] == record["shown"] == stop - start
        assert "ids" not in record


def test_ids_are_listed_with_their_names(made):
    texts, tokenizer, split = made
    record = show(split, 3, Reader(tokenizer), max_tokens=4, with_ids=True)
    ids = tokenizer.encode(texts[3])[:4]
    assert record["ids"] == [[token, tokenizer.name_of(token)] for token in ids]
    assert (record["shown"], record["tokens"]) == (4, len(split.document(3)))
    assert record["pieces"] == [{"text": tokenizer.decode(ids)}]


def test_without_a_tokenizer_ids_are_all_there_is(made):
    *_, split = made
    record = show(split, 0, Reader(None), max_tokens=2, with_ids=True)
    assert "pieces" not in record
    assert record["ids"] == [[token, NO_TOKEN] for token in split.document(0)[:2].tolist()]


def test_control_tokens_and_unknown_ids_stand_between_texts(made):
    _, tokenizer, _ = made
    word = tokenizer.encode("def")
    beyond = tokenizer.vocab_size + 5
    tokens = np.array([0, *word, 1, 2, *word, beyond], np.int64)
    assert list(Reader(tokenizer).pieces(tokens)) == [
        {"control": "<|endoftext|>", "id": 0},
        {"text": "def"},
        {"control": "<|user|>", "id": 1},
        {"control": "<|assistant|>", "id": 2},
        {"text": "def"},
        {"control": NO_TOKEN, "id": beyond},
    ]
    assert list(Reader(tokenizer).pieces(np.empty(0, np.int64))) == []
