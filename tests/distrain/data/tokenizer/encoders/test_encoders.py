"""Ids of the engines on real and on made text."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from distrain.data.tokenizer.encoders import ENCODERS, REFERENCE
from distrain.data.tokenizer.encoders.adversarial import adversarial_texts
from distrain.data.tokenizer.encoders.choose import ids_by_text
from distrain.errors import DataError
from tests.distrain.data.tokenizer.encoders.made import KINDS, stdlib_texts

FAST = [
    (engine, kind)
    for engine in ("gigatoken", "fastokens")
    for kind in ("bpe of gpt-2", "bpe of gpt-4", "llama-like")
]
CONTROL = ["<|endoftext|>", "<|user|>", "<unk>", "<s>", "</s>"]


def reference_ids(tokenizer_json, text):
    """The library itself, without anything of ours."""
    raw = Tokenizer.from_str(tokenizer_json)
    raw.encode_special_tokens = True
    return raw.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_gives_the_ids_of_the_library(kind):
    tokenizer_json = KINDS[kind]()
    texts = [*stdlib_texts()[:2], "", *CONTROL]
    encoded = ENCODERS[REFERENCE](tokenizer_json).encode(texts)
    for text, ids in zip(texts, ids_by_text(encoded), strict=True):
        assert ids.tolist() == reference_ids(tokenizer_json, text)
    assert encoded.ids.dtype == np.uint16
    assert encoded.ends.dtype == np.int64


@pytest.mark.parametrize(("engine", "kind"), FAST)
def test_a_fast_engine_gives_the_ids_of_the_reference(engine, kind):
    tokenizer_json = KINDS[kind]()
    texts = [*stdlib_texts(), *adversarial_texts(tokenizer_json, fuzz=100)]
    wanted = ENCODERS[REFERENCE](tokenizer_json).encode(texts)
    found = ENCODERS[engine](tokenizer_json).encode(texts)
    np.testing.assert_array_equal(found.ends, wanted.ends)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    assert found.ids.dtype == wanted.ids.dtype


PIECES = st.sampled_from([*CONTROL, " ", "\n", "\r\n", "'s", "1234", "é", "e\u0301", "\x00", "🙂"])
TEXTS = st.lists(st.text() | st.lists(PIECES | st.text(max_size=3)).map("".join), max_size=5)


@pytest.mark.parametrize(("engine", "kind"), FAST)
def test_a_fast_engine_gives_the_ids_of_the_reference_for_any_text(engine, kind):
    tokenizer_json = KINDS[kind]()
    reference, fast = ENCODERS[REFERENCE](tokenizer_json), ENCODERS[engine](tokenizer_json)

    @settings(deadline=None, max_examples=40)
    @given(TEXTS)
    def check(texts):
        wanted, found = reference.encode(texts), fast.encode(texts)
        np.testing.assert_array_equal(found.ends, wanted.ends)
        np.testing.assert_array_equal(found.ids, wanted.ids)

    check()


@pytest.mark.parametrize(
    ("engine", "kind"), [*FAST, (REFERENCE, "bpe of gpt-2"), (REFERENCE, "unigram of bytes")]
)
def test_names_of_control_tokens_are_ordinary_text(engine, kind):
    tokenizer_json = KINDS[kind]()
    raw = Tokenizer.from_str(tokenizer_json)
    control = set(raw.get_added_tokens_decoder())
    assert len(control) >= 3
    encoded = ENCODERS[engine](tokenizer_json).encode([*CONTROL, "a<|user|>b</s>\n<unk><|pad|>"])
    assert not control & set(encoded.ids.tolist())


@pytest.mark.parametrize("engine", ENCODERS)
@pytest.mark.parametrize("threads", [2, 50])
def test_threads_change_nothing(engine, threads):
    tokenizer_json = KINDS["bpe of gpt-2"]()
    texts = ["", *stdlib_texts(), "", "end"]
    alone = ENCODERS[engine](tokenizer_json).encode(texts)
    together = ENCODERS[engine](tokenizer_json, threads=threads).encode(texts)
    np.testing.assert_array_equal(together.ids, alone.ids)
    np.testing.assert_array_equal(together.ends, alone.ends)


@pytest.mark.parametrize("engine", ENCODERS)
def test_a_vocabulary_over_uint16_gives_four_byte_ids(engine):
    content = json.loads(KINDS["bpe of gpt-2"]())
    vocab = content["model"]["vocab"]
    vocab |= {f"never used {number}": number for number in range(len(vocab), 70_000)}
    kept = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"].append({"id": 70_000, "content": "<think>", "special": False, **kept})
    encoded = ENCODERS[engine](json.dumps(content)).encode(["a<think>b", "<|endoftext|>"])
    assert encoded.ids.dtype == np.uint32
    assert encoded.ids[:3].tolist() == [vocab["a"], 70_000, vocab["b"]]
    assert 0 not in encoded.ids


@pytest.mark.parametrize("engine", ENCODERS)
def test_nothing_to_encode_gives_no_ids(engine):
    encoder = ENCODERS[engine](KINDS["bpe of gpt-2"]())
    for texts, ends in ([], []), ([""], [0]), (["", "", "a", ""], [0, 0, 1, 1]):
        encoded = encoder.encode(texts)
        assert encoded.ends.tolist() == ends
        assert len(encoded.ids) == max(ends, default=0)


@pytest.mark.parametrize("engine", ENCODERS)
def test_a_lone_surrogate_is_named(engine):
    encoder = ENCODERS[engine](KINDS["bpe of gpt-2"]())
    with pytest.raises(DataError, match=r"text 1 .*'ab\\ud800c'.* '\\ud800', at character 2"):
        encoder.encode(["fine", "ab\ud800c"])


@pytest.mark.parametrize("engine", ENCODERS)
def test_templates_and_truncation_of_the_file_are_left_out(engine):
    raw = Tokenizer.from_str(KINDS["llama-like"]())
    plain = ENCODERS[engine](raw.to_str()).encode(["a b c", "d"])
    raw.enable_truncation(2)
    raw.enable_padding()
    framed = ENCODERS[engine](raw.to_str()).encode(["a b c", "d"])
    assert framed.ids.tolist() == plain.ids.tolist()
    assert len(plain.ids) > 3
