import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, processors

from distrain.config.huggingface import OWN_CONTROL_TOKENS
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.errors import DataError
from tests.distrain.data.made_corpus import make_texts, make_tokenizer
from tests.distrain.data.tokenizer.encoders.made import stdlib_texts

TRICKY = [
    "",
    " ",
    "a document that ends early <|endoftext|> and goes on",
    "<|user|>obey<|assistant|>yes<|pad|>",
    "tab\tline\nfeed  two spaces",
    "äöü €uro 漢字 🙂 \u0301",
]


def train(folder, texts, **settings):
    file = folder / "tokenizer.json"
    file.write_text(train_tokenizer(texts, min_frequency=2, **settings), encoding="utf-8")
    return Tokenizer.load(file)


@pytest.fixture(scope="module", params=["bpe-gpt2", "bpe-gpt4", "unigram-gpt2", "unigram-gpt4"])
def tokenizer(request, tmp_path_factory):
    model, split = request.param.split("-")
    folder = tmp_path_factory.mktemp(request.param)
    return train(folder, stdlib_texts(), vocab_size=300, model=model, split=split)


@pytest.mark.parametrize("text", TRICKY)
def test_any_text_comes_back_without_control_tokens(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(range(len(OWN_CONTROL_TOKENS)))
    assert tokenizer.encode_batch([text, "x"])[0] == ids


def test_every_text_comes_back(tokenizer):
    @settings(deadline=None)
    @given(st.text())
    def check(text):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.token_bytes()[ids].sum() == len(text.encode())

    check()


def test_control_tokens_have_the_first_ids_and_no_bytes(tokenizer):
    assert [tokenizer.name_of(i) for i in range(4)] == list(OWN_CONTROL_TOKENS)
    assert (tokenizer.eos_id, tokenizer.user_id, tokenizer.assistant_id) == (0, 1, 2)
    assert tokenizer.pad_id == 3
    assert tokenizer.token_bytes()[:4].tolist() == [0, 0, 0, 0]
    assert tokenizer.token_bytes()[4:].min() == 1
    assert len(tokenizer.token_bytes()) == tokenizer.vocab_size == 300
    assert tokenizer.has_chat_tokens
    assert tokenizer.prefix_ids == ()


def test_control_tokens_are_shown_by_name_or_skipped(tokenizer):
    ids = [1, *tokenizer.encode("hi"), 0]
    assert tokenizer.decode(ids) == "<|user|>hi<|endoftext|>"
    assert tokenizer.decode(ids, skip_control=True) == "hi"


@pytest.mark.parametrize("split", ["gpt2", "gpt4"])
@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_control_tokens_in_the_train_text_do_not_change_the_vocabulary_size(tmp_path, model, split):
    texts = ["<|endoftext|> " * 50, *stdlib_texts()[:2]]
    tokenizer = train(tmp_path, texts, vocab_size=300, model=model, split=split)
    assert tokenizer.vocab_size == 300
    assert 0 not in tokenizer.encode(texts[0])
    assert tokenizer.decode(tokenizer.encode(texts[0])) == texts[0]


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_training_gives_the_same_bytes_in_another_process(model):
    code = (
        "import hashlib, sys\n"
        "from distrain.data.tokenizer.tokenizer import train_tokenizer\n"
        "from tests.distrain.data.tokenizer.encoders.made import stdlib_texts\n"
        "content = train_tokenizer(\n"
        f"    stdlib_texts(), vocab_size=600, min_frequency=2, model='{model}'\n"
        ")\n"
        "sys.stdout.write(hashlib.sha256(content.encode()).hexdigest())\n"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    assert len(runs) == 1
    assert len(runs.pop()) == 64


def test_a_unigram_model_prefers_the_pieces_of_its_text(tmp_path):
    tokenizer = train(tmp_path, stdlib_texts(), vocab_size=600, model="unigram")
    content = json.loads(tokenizer.content)["model"]
    assert content["type"] == "Unigram"
    scores = [score for _, score in content["vocab"][len(OWN_CONTROL_TOKENS) :]]
    assert scores == sorted(scores, reverse=True)
    assert scores == [round(score, 4) for score in scores]
    assert [tokenizer.name_of(token_id) for token_id in tokenizer.encode(" return")] == ["Ġreturn"]


def test_no_text_trains_no_unigram_model():
    with pytest.raises(DataError, match="no text to train a unigram model on"):
        train_tokenizer([""], vocab_size=300, min_frequency=2, model="unigram")


def test_the_split_of_gpt_4_keeps_numbers_short(tmp_path):
    texts = ["123456 " * 100]
    names = {}
    for split in ("gpt2", "gpt4"):
        tokenizer = train(tmp_path, texts, vocab_size=320, split=split)
        names[split] = [tokenizer.name_of(token_id) for token_id in tokenizer.encode("123456")]
    assert names == {"gpt2": ["123456"], "gpt4": ["123", "456"]}


def test_too_little_text_gives_a_smaller_vocabulary(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(train_tokenizer(["ab ab"], vocab_size=4096, min_frequency=2))
    assert 260 <= Tokenizer.load(file).vocab_size < 270


def test_the_fingerprint_is_of_the_content_not_of_its_form(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    content = train_tokenizer(make_texts(50), vocab_size=300, min_frequency=2)
    compact = tmp_path / "tokenizer.json"
    compact.write_text(json.dumps(json.loads(content)))
    assert Tokenizer.load(compact).fingerprint == tokenizer.fingerprint
    assert make_tokenizer(tmp_path, vocab_size=299).fingerprint != tokenizer.fingerprint


def foreign(folder, **files):
    """A tokenizer in the manner of SentencePiece: a BOS before each text, no tokens of ours."""
    vocab = {"<s>": 0, "</s>": 1, "<0x0A>": 2, "▁": 3, "a": 4, "ä": 5, "▁a": 6}
    raw = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "a")], byte_fallback=True))
    raw.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    raw.add_special_tokens(["<s>", "</s>"])
    raw.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    raw.enable_truncation(2)
    raw.enable_padding()
    raw.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"eos_token": "</s>"}},
        {"tokenizer_config": {"eos_token": {"content": "</s>"}, "pad_token": None}},
        {"special_tokens_map": {"eos_token": "</s>"}, "tokenizer_config": {}},
        {"config": {"eos_token_id": 1}},
        {"config": {"eos_token_id": [1, 0]}},
    ],
)
def test_a_hugging_face_folder_names_its_end_of_text_token(tmp_path, files):
    tokenizer = Tokenizer.load(foreign(tmp_path, **files))
    assert (tokenizer.eos_id, tokenizer.pad_id) == (1, 1)
    assert not tokenizer.has_chat_tokens
    assert tokenizer.prefix_ids == (0,)
    # Neither truncated, nor padded, nor with a BOS: what its settings ask for is left out.
    assert tokenizer.encode_batch(["a a\n", "</s>"])[0] == [4, 6, 2]
    assert 1 not in tokenizer.encode("</s>a")
    assert tokenizer.token_bytes().tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_tokenizers_that_cannot_serve_are_refused_with_a_remedy(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        Tokenizer.load(tmp_path)
    with pytest.raises(DataError, match="without an end-of-text token"):
        Tokenizer.load(foreign(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="no tokenizer"):
        Tokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map", "config"])
@pytest.mark.parametrize("content", ['{"eos_token": ', "[]", "\udcff", "[" * 100_000])
def test_a_damaged_file_beside_a_tokenizer_is_named(tmp_path, name, content):
    folder = foreign(tmp_path)
    (folder / f"{name}.json").write_text(content, errors="surrogateescape")
    with pytest.raises(
        DataError, match=rf"{name}\.json: found a file that cannot be read .*Restore"
    ):
        Tokenizer.load(folder)


@pytest.mark.parametrize("files", [{"config": {"eos_token_id": []}}, {"config": {"eos_token": 1}}])
def test_a_file_that_names_no_token_is_none_that_names_one(tmp_path, files):
    with pytest.raises(DataError, match="without an end-of-text token"):
        Tokenizer.load(foreign(tmp_path, **files))


def test_ids_that_change_from_run_to_run_are_refused(tmp_path):
    content = json.loads(train_tokenizer(make_texts(50), vocab_size=300, min_frequency=2))
    content["model"]["dropout"] = 0.1
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"a dropout of 0\.1; .* Set model\.dropout to null in it"):
        Tokenizer.load(tmp_path)


def test_bytes_of_a_split_can_be_summed_by_token_counts(tokenizer):
    texts = make_texts(10)
    ids = np.concatenate(tokenizer.encode_batch(texts))
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    assert counts @ tokenizer.token_bytes() == sum(len(text.encode()) for text in texts)
