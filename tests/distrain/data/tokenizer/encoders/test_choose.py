import json
import logging
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers

from distrain.config.data import EngineName
from distrain.data.tokenizer.encoders import ENCODERS, REFERENCE, choose
from distrain.data.tokenizer.encoders.adversarial import adversarial_texts
from distrain.data.tokenizer.encoders.choose import choose_encoder, open_encoder
from distrain.data.tokenizer.encoders.encoder import Encoded
from distrain.data.tokenizer.encoders.huggingface import HuggingFaceEncoder
from distrain.data.tokenizer.encoders.report import EngineReport
from distrain.errors import DataError
from tests.distrain.data.tokenizer.encoders.made import KINDS, stdlib_texts


class WrongEngine:
    """The reference, but for what ``spoil`` does to its ids."""

    version = "9.9"

    def __init__(self, tokenizer_json, name, spoil):
        self.name = name
        self.spoil = spoil
        self.reference = HuggingFaceEncoder(tokenizer_json)

    def encode(self, texts):
        encoded = self.reference.encode(texts)
        return self.spoil(texts, Encoded(encoded.ids.copy(), encoded.ends))


def put_wrong_engine(monkeypatch, name, spoil):
    monkeypatch.setitem(
        ENCODERS, name, lambda tokenizer_json, threads=1: WrongEngine(tokenizer_json, name, spoil)
    )


@pytest.fixture
def tokenizer_json():
    return KINDS["bpe of gpt-2"]()


@pytest.fixture
def sample():
    return stdlib_texts()[:3]


TAKEN: list[tuple[EngineName, str]] = [
    ("auto", "bpe of gpt-2"),
    ("gigatoken", "bpe of gpt-4"),
    ("fastokens", "llama-like"),
]


@pytest.mark.parametrize(("wanted", "kind"), TAKEN)
def test_a_fast_engine_is_taken_after_its_check(wanted, kind, sample):
    tokenizer_json = KINDS[kind]()
    encoder, report = choose_encoder(tokenizer_json, wanted, sample)
    assert encoder.name == report.engine == ("gigatoken" if wanted == "auto" else wanted)
    assert report.version == encoder.version
    assert report.sample_texts == 3
    assert report.sample_tokens == len(ENCODERS[REFERENCE](tokenizer_json).encode(sample).ids)
    assert report.adversarial_texts == len(adversarial_texts(tokenizer_json))
    assert report.refused == ()


def test_the_reference_needs_no_check(tokenizer_json, sample):
    encoder, report = choose_encoder(tokenizer_json, "tokenizers", sample)
    assert isinstance(encoder, HuggingFaceEncoder)
    assert report == EngineReport(REFERENCE, encoder.version, encoder.version)


@pytest.mark.parametrize("kind", ["unigram of bytes", "t5-like"])
def test_auto_falls_back_to_the_reference_and_says_why(kind, sample, caplog):
    with caplog.at_level(logging.INFO):
        encoder, report = choose_encoder(KINDS[kind](), "auto", sample)
    assert encoder.name == report.engine == REFERENCE
    assert [refusal.engine for refusal in report.refused] == ["gigatoken", "fastokens"]
    assert "Unigram" in report.refused[0].reason
    for refusal in report.refused:
        assert f"engine {refusal.engine} is not used: found {refusal.reason}" in caplog.text


def test_an_engine_that_cannot_load_a_tokenizer_is_an_error_if_asked_for(sample):
    with pytest.raises(DataError, match=r"fastokens 0\S* failing \(.*Unigram\).*Set tokenizer"):
        choose_encoder(KINDS["unigram of bytes"](), "fastokens", sample)


def one_id_in_the_sample(texts, encoded):
    encoded.ids[1000] ^= 1
    return encoded


def one_id_of_an_accent(texts, encoded):
    number = next(i for i, text in enumerate(texts) if text.startswith("e\u0301"))
    encoded.ids[encoded.ends[number] - 1] ^= 1
    return encoded


def one_boundary(texts, encoded):
    encoded.ends[0] -= 1
    return encoded


def one_text_less(texts, encoded):
    return Encoded(encoded.ids, encoded.ends[:-1])


def one_id_more(texts, encoded):
    return Encoded(np.append(encoded.ids, encoded.ids[-1]), encoded.ends)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (one_id_in_the_sample, r"other ids for .*: from id 1000 on \[.*\] instead of \[.*\]"),
        (one_id_of_an_accent, r"other ids for 'e\\u0301 .* from id 50 on .* instead of .*"),
        (one_boundary, r"other ids for .* on \[\] instead of \[\d+\]"),
        (one_text_less, r"\d+ results for \d+ texts"),
        (one_id_more, r"\d+ ids for texts of \d+"),
    ],
)
def test_an_engine_with_other_ids_is_refused(monkeypatch, tokenizer_json, sample, spoil, reason):
    put_wrong_engine(monkeypatch, "gigatoken", spoil)
    with pytest.raises(DataError, match=rf"found {reason} \(gigatoken 9.9\); expected the ids"):
        choose_encoder(tokenizer_json, "gigatoken", sample)


def test_auto_goes_on_after_an_engine_with_other_ids(monkeypatch, tokenizer_json, sample):
    put_wrong_engine(monkeypatch, "gigatoken", one_id_in_the_sample)
    encoder, report = choose_encoder(tokenizer_json, "auto", sample)
    assert encoder.name == "fastokens"
    assert [refusal.engine for refusal in report.refused] == ["gigatoken"]
    assert EngineReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_another_unicode_version_is_found():
    # gigatoken 0.10 orders combining marks of newer Unicode than the normalizer of tokenizers.
    raw = Tokenizer.from_str(KINDS["bpe of gpt-2"]())
    raw.normalizer = normalizers.NFC()
    marks = [f"a{chr(mark)}\u0301 a\u0301{chr(mark)}" for mark in range(0x0898, 0x08A0)]
    encoder, _ = choose_encoder(raw.to_str(), "auto", ["plain text"])
    wanted = ENCODERS[REFERENCE](raw.to_str()).encode(marks)
    assert encoder.encode(marks).ids.tolist() == wanted.ids.tolist()


def test_a_missing_package_is_named_with_its_extra(monkeypatch, tokenizer_json, sample):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with pytest.raises(DataError, match=r"no package gigatoken .*pip install 'distrain\[fast\]'"):
        choose_encoder(tokenizer_json, "gigatoken", sample)
    encoder, report = choose_encoder(tokenizer_json, "auto", sample)
    assert encoder.name == "fastokens"
    assert report.refused[0].reason.startswith("no package gigatoken")
    monkeypatch.setitem(sys.modules, "fastokens", None)
    encoder, report = choose_encoder(tokenizer_json, "auto", sample)
    assert encoder.name == REFERENCE
    assert len(report.refused) == 2


def test_without_text_of_the_corpus_the_reference_encodes(tokenizer_json):
    encoder, report = choose_encoder(tokenizer_json, "auto", [])
    assert encoder.name == REFERENCE
    assert "no text of the corpus" in report.refused[0].reason


def test_no_more_of_the_corpus_is_read_than_is_compared(monkeypatch, tokenizer_json):
    monkeypatch.setattr(choose, "SAMPLE_CHARACTERS", 25)

    def texts():
        yield "a" * 10
        yield "b" * 100
        raise AssertionError("read on")

    report = choose_encoder(tokenizer_json, "auto", texts())[1]
    assert report.sample_texts == 2
    assert report.sample_tokens <= 25


def test_another_process_opens_what_was_chosen(tokenizer_json, sample):
    encoder, report = choose_encoder(tokenizer_json, "auto", sample)
    opened = open_encoder(report, tokenizer_json)
    assert opened.name == encoder.name
    assert opened.encode(sample).ids.tolist() == encoder.encode(sample).ids.tolist()


def test_another_version_is_not_opened(tokenizer_json):
    report = EngineReport("gigatoken", "0.0.1", "0.23.3")
    with pytest.raises(DataError, match=r"gigatoken \S+ on this machine; expected version 0\.0\.1"):
        open_encoder(report, tokenizer_json)


def test_adversarial_texts_are_the_same_each_time_and_hold_the_control_tokens(tokenizer_json):
    texts = adversarial_texts(tokenizer_json)
    assert texts == adversarial_texts(tokenizer_json)
    assert "" in texts
    assert any("\x00" in text for text in texts)
    assert any("\u200d" in text for text in texts)
    assert max(map(len, texts)) >= 20_000
    for token in ("<|endoftext|>", "<|pad|>"):
        assert f"a{token}b" in texts
    used = {character for text in texts for character in text}
    lead_bytes = {character.encode()[0] for character in used}
    assert lead_bytes == {*range(0x80), *range(0xC2, 0xF5)}
