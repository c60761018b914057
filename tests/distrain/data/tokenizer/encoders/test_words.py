"""Words that are looked up give the ids of the library on the whole text."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from distrain.data.tokenizer.encoders import ENCODERS, REFERENCE, words
from distrain.data.tokenizer.encoders.adversarial import adversarial_texts
from distrain.data.tokenizer.encoders.words import EXPRESSIONS, words_encoder
from tests.distrain.data.tokenizer.encoders.made import KINDS, stdlib_texts

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
QWEN2 = next(text for text in EXPRESSIONS if r"|\p{N}|" in text)


def cut_by(expression):
    split = {"pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return [{"type": "Split", **split}, {**BYTES, "use_regex": False}]


STEPS = {
    "gpt-2": [{**BYTES, "use_regex": True}],
    "gpt-2 with single digits": [
        {"type": "Digits", "individual_digits": True},
        {**BYTES, "use_regex": True},
    ],
    "gpt-2 with numbers": [
        {"type": "Digits", "individual_digits": False},
        {**BYTES, "use_regex": True},
    ],
    "cl100k": cut_by(next(text for text in EXPRESSIONS if "{1,3}" in text)),
    "qwen 2": cut_by(QWEN2),
    "not cut at all": [{**BYTES, "use_regex": False}],
}


def content_with(steps, **changes):
    content = json.loads(KINDS["bpe of gpt-4"]())
    return {
        **content,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        **changes,
    }


def encoders(content):
    text = json.dumps(content)
    raw = Tokenizer.from_str(text)
    raw.encode_special_tokens = True
    return words_encoder(raw, content), ENCODERS[REFERENCE](text)


def assert_equal(found, wanted):
    np.testing.assert_array_equal(found.ends, wanted.ends)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    assert found.ids.dtype == wanted.ids.dtype


@pytest.mark.parametrize("steps", STEPS)
def test_words_give_the_ids_of_the_whole_text(steps):
    content = content_with(STEPS[steps])
    of_words, reference = encoders(content)
    texts = [*stdlib_texts(30_000), *adversarial_texts(json.dumps(content), fuzz=50)]
    assert_equal(of_words.encode(texts), reference.encode(texts))
    # Again, when all words are known.
    assert_equal(of_words.encode(texts), reference.encode(texts))


@pytest.mark.parametrize("steps", ["gpt-2 with single digits", "qwen 2"])
def test_words_give_the_ids_of_any_text(steps):
    of_words, reference = encoders(content_with(STEPS[steps]))
    safe = st.text(st.sampled_from(list(map(chr, words.SAFE))))
    odd = st.sampled_from(
        ["'S", "'ll", "  ", "\n \n", "12", "½", " .\r\n", "漢字", "ß—", "<|user|>"]
    )

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.lists(safe | odd | st.text(max_size=3)).map("".join), max_size=5))
    def check(texts):
        assert_equal(of_words.encode(texts), reference.encode(texts))

    check()


def test_most_texts_are_looked_up_and_others_go_to_the_library(monkeypatch):
    of_words, reference = encoders(content_with(STEPS["gpt-2"]))
    left_whole = []

    def whole(text):
        left_whole.append(text)
        return np.zeros(1, np.uint32)

    monkeypatch.setattr(of_words, "_whole", whole)
    plain = ["def f(x): return 12", "Größe – «was?»", "и 漢字カナ", ""]  # noqa: RUF001
    assert_equal(of_words.encode(plain), reference.encode(plain))
    assert left_whole == []
    # No-break space, an s to some, a class that is younger than some libraries, a control token.
    other = ["a\u00a0b", "'\u017f", "\U0001fae8", "a <|endoftext|>"]
    of_words.encode(other)
    assert left_whole == other


def test_words_that_were_forgotten_are_learned_again(monkeypatch):
    of_words, reference = encoders(content_with(STEPS["gpt-2"]))
    monkeypatch.setattr(words, "MAX_WORDS", 2)
    monkeypatch.setattr(words, "TEXTS_AT_ONCE", 1)
    texts = ["one two three four", "five six seven", "one five"]
    assert_equal(of_words.encode(texts), reference.encode(texts))
    assert len(of_words._known) == 2


@pytest.mark.parametrize(
    "content",
    [
        content_with(cut_by(QWEN2.replace("[\\r\\n]*", ""))),
        content_with([{**BYTES, "add_prefix_space": True, "use_regex": True}]),
        content_with([*STEPS["gpt-2"], {"type": "Digits", "individual_digits": True}]),
        content_with(STEPS["gpt-2"], normalizer={"type": "NFC"}),
        content_with([{**cut_by(QWEN2)[0], "invert": True}, *cut_by(QWEN2)[1:]]),
        content_with([{**cut_by(QWEN2)[0], "pattern": {"String": " "}}, *cut_by(QWEN2)[1:]]),
        json.loads(KINDS["llama-like"]()),
        json.loads(KINDS["t5-like"]()),
    ],
    ids=["expression", "prefix", "bytes first", "normalizer", "invert", "string", "llama", "t5"],
)
def test_how_a_text_is_cut_must_be_known(content):
    assert words_encoder(Tokenizer.from_str(json.dumps(content)), content) is None


def test_other_cuts_would_be_seen():
    content = content_with(STEPS["gpt-2"])
    of_words, reference = encoders(content)
    of_words._split = lambda text: text.split(" ")
    texts = stdlib_texts(30_000)
    assert not np.array_equal(of_words.encode(texts).ids, reference.encode(texts).ids)
