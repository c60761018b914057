import json

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from distrain.data.tokenizer.closing import close_tokenizer, leaking_tokens
from distrain.data.tokenizer.encoders.choose import choose_encoder
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from tests.distrain.data.tokenizer.encoders.made import KINDS, SPM_CONTROL, stdlib_texts

TEXTS = [*stdlib_texts()[:3], "a <b> s", "x < /s > y", "1</2", "", "  two  spaces\n"]


def ids_of(tokenizer_json, text):
    raw = tokenizers.Tokenizer.from_str(tokenizer_json)
    raw.encode_special_tokens = True
    return raw.encode(text, add_special_tokens=False).ids


def test_a_unigram_model_with_control_tokens_as_pieces_leaks_until_it_is_closed(tmp_path):
    content = KINDS["t5-like"]()
    assert leaking_tokens(tokenizers.Tokenizer.from_str(content)) == SPM_CONTROL
    (tmp_path / "tokenizer.json").write_text(content)
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    tokenizer = Tokenizer.load(tmp_path)
    for text in (*SPM_CONTROL, "a</s>", "</s></s> <s>x<unk>", "a <b></s>"):
        assert not {1, 2} & set(tokenizer.encode(text))
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode(text) == tokenizer.encode_batch([text])[0]
    encoder, _ = choose_encoder(tokenizer.content, "auto", ["</s>"])
    assert encoder.encode(["</s>"]).ids.tolist() == tokenizer.encode("</s>")


def test_closing_changes_no_other_text():
    content = KINDS["t5-like"]()
    closed = close_tokenizer(content, tokenizers.Tokenizer.from_str(content), "here")
    for text in TEXTS:
        assert "</s>" not in text
        assert ids_of(closed, text) == ids_of(content, text)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "t5-like"])
def test_a_tokenizer_that_does_not_leak_stays_as_it_is(kind):
    content = KINDS[kind]()
    assert close_tokenizer(content, tokenizers.Tokenizer.from_str(content), "here") is content


def test_whole_words_as_tokens_can_be_closed_too():
    vocab = {"[SEP]": 0, "a": 1, "[UNK]": 2}
    raw = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(["[UNK]", "[SEP]"])
    content = raw.to_str()
    assert ids_of(content, "a [SEP]") == [1, 0]
    assert ids_of(close_tokenizer(content, raw, "here"), "a [SEP] a") == [1, 2, 2, 1]


def test_a_tokenizer_that_cannot_be_closed_is_refused():
    raw = tokenizers.Tokenizer(models.WordLevel({"[": 0, "x": 1, "[UNK]": 2}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_special_tokens(["[UNK]", "x"])
    content = json.dumps(json.loads(raw.to_str()))
    with pytest.raises(DataError) as caught:
        close_tokenizer(content, raw, "some/tokenizer.json")
    assert str(caught.value) == (
        "some/tokenizer.json: found a tokenizer that takes the text 'x' for a control token; "
        "expected control tokens that no text can produce. Give these tokens names that its model "
        "does not hold as pieces."
    )
