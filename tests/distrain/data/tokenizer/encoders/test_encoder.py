import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from distrain.data.tokenizer.encoders.encoder import (
    EngineEncoder,
    cut,
    id_dtype,
    raise_if_of_engine,
    vocab_size_of,
)
from distrain.errors import DataError
from tests.distrain.data.tokenizer.encoders.made import KINDS


class OneId(EngineEncoder):
    """Gives one id for each text: the number that it is."""

    name = "one-id"

    def __init__(self, vocab_size, threads=1):
        content = {"model": {"vocab": {"a": 0, "z": vocab_size - 1}}}
        super().__init__(content, version="1.0", threads=threads)

    def encode_slice(self, texts):
        return np.array([int(text) for text in texts], np.uint32), np.ones(len(texts), np.int64)


@pytest.mark.parametrize(
    ("vocab_size", "size_bytes"), [(1, 2), (65_536, 2), (65_537, 4), (200_000, 4)]
)
def test_ids_take_two_bytes_wherever_they_fit(vocab_size, size_bytes):
    assert id_dtype(vocab_size).itemsize == size_bytes
    highest = vocab_size - 1
    encoded = OneId(vocab_size).encode([str(highest)])
    assert encoded.ids.dtype == id_dtype(vocab_size)
    assert encoded.ids.tolist() == [highest]


@pytest.mark.parametrize("vocab_size", [300, 65_536, 100_000])
def test_an_id_that_is_not_in_the_vocabulary_is_refused_by_the_engines_name(vocab_size):
    with pytest.raises(DataError) as caught:
        OneId(vocab_size).encode(["1", str(vocab_size), "2"])
    assert str(caught.value) == (
        f"tokenizer.engine: found the id {vocab_size} from one-id 1.0; expected ids below "
        f"{vocab_size}, the size of the vocabulary. Set tokenizer.engine to tokenizers."
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_is_counted_as_the_library_counts_it(kind):
    tokenizer_json = KINDS[kind]()
    raw = Tokenizer.from_str(tokenizer_json)
    assert vocab_size_of(json.loads(tokenizer_json)) == max(raw.get_vocab().values()) + 1
    raw.add_tokens(["<one more>"])
    assert vocab_size_of(json.loads(raw.to_str())) == max(raw.get_vocab().values()) + 1


@given(st.lists(st.text()), st.integers(1, 9))
def test_slices_hold_each_text_once_in_order(texts, parts):
    slices = cut(texts, parts)
    assert [text for part in slices for text in part] == texts
    assert 1 <= len(slices) <= parts
    assert all(slices) or slices == [[]]


def test_slices_are_of_about_equal_size():
    texts = ["a" * length for length in (10, 10, 10, 70, 50, 50)]
    assert [sum(map(len, part)) for part in cut(texts, 2)] == [100, 100]


class PanicException(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("no such\nmodel"), PanicException("no such")])
def test_what_an_engine_raises_becomes_a_message(error):
    with pytest.raises(DataError, match=r"found engine 1 failing \(no such\); expected text\."):
        raise_if_of_engine(error, "engine 1", "text")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_what_is_not_the_engines_doing_passes(error):
    class Interrupted(OneId):
        def encode_slice(self, texts):
            raise error

    with pytest.raises(type(error)):
        Interrupted(300).encode(["1"])
