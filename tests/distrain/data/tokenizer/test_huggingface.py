import json

import pytest

from distrain.data.tokenizer.huggingface import copy_tokenizer, save_huggingface
from distrain.data.tokenizer.layouts import chat_template
from distrain.data.tokenizer.tokenizer import Tokenizer
from tests.distrain.data.former_layouts import fitted, layout_of
from tests.distrain.data.made_corpus import make_texts, make_tokenizer
from tests.distrain.data.tokenizer.test_tokenizer import TRICKY, foreign


@pytest.fixture(scope="module")
def auto_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer


def test_transformers_encodes_as_we_do(tmp_path, auto_tokenizer):
    ours = make_tokenizer(tmp_path / "ours")
    save_huggingface(tmp_path / "ours" / "tokenizer.json", tmp_path / "hf", model_max_length=77)
    theirs = auto_tokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=False)
    for text in [*make_texts(20), *TRICKY]:
        if "<|" not in text:
            assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs(text, split_special_tokens=True)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
    assert theirs.model_max_length == 77
    assert len(theirs) == ours.vocab_size
    assert Tokenizer.load(tmp_path / "hf").fingerprint == ours.fingerprint


@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_the_chat_template_lays_out_pairs_as_training_did(tmp_path, auto_tokenizer, kind):
    if kind == "ours":
        make_tokenizer(tmp_path)
    else:
        foreign(tmp_path, tokenizer_config={"eos_token": "</s>", "bos_token": "<s>"})
    ours = Tokenizer.load(tmp_path)
    save_huggingface(tmp_path, tmp_path / "hf")
    theirs = auto_tokenizer.from_pretrained(tmp_path / "hf")
    layout = layout_of(tmp_path, ours)
    asked = [{"role": "user", "content": "aaa"}]
    found = theirs.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert found == fitted(layout.question("aaa"), 1000)[0]
    told = [*asked, {"role": "assistant", "content": "aa"}]
    (pair,) = layout.pairs([("aaa", "aa")])
    assert theirs.apply_chat_template(told)["input_ids"] == fitted(pair, 1000)[0]
    assert (found[0] == 0) == (kind == "foreign")  # with its BOS


def test_what_a_users_own_configuration_says_is_kept(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    foreign(folder, tokenizer_config={"eos_token": "</s>", "bos_token": "<s>", "legacy": False})
    save_huggingface(folder / "tokenizer.json", tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["legacy"]) == ("<s>", False)


def test_a_copied_tokenizer_still_knows_its_end_of_text(tmp_path):
    (tmp_path / "model").mkdir()
    source = Tokenizer.load(foreign(tmp_path / "model", config={"eos_token_id": 1}))
    copy_tokenizer(tmp_path / "model", tmp_path / "stage")
    copy = Tokenizer.load(tmp_path / "stage" / "tokenizer.json")
    assert (copy.eos_id, copy.fingerprint) == (source.eos_id, source.fingerprint)


def test_a_copied_tokenizer_keeps_its_template_up_to_the_export(tmp_path, auto_tokenizer):
    folder = tmp_path / "model"
    folder.mkdir()
    foreign(
        folder,
        tokenizer_config={"eos_token": "</s>", "bos_token": "<s>"},
        special_tokens_map={"unk_token": "<s>"},
    )
    template = "{% for message in messages %}{{ message['content'] }}</s>{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    copy_tokenizer(folder, tmp_path / "stage")
    stated = json.loads((tmp_path / "stage" / "special_tokens_map.json").read_text())
    assert stated["unk_token"] == "<s>"
    ours = Tokenizer.load(tmp_path / "stage")
    (pair,) = layout_of(tmp_path / "stage", ours).pairs([("aaa", "aa")])
    save_huggingface(tmp_path / "stage", tmp_path / "hf")
    theirs = auto_tokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.chat_template == template
    told = [{"role": "user", "content": "aaa"}, {"role": "assistant", "content": "aa"}]
    # transformers would put the BOS before it twice, were it in the template.
    assert theirs.apply_chat_template(told)["input_ids"] == fitted(pair, 1000)[0]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_tokenizer_of_a_users_model_is_written_byte_for_byte(tmp_path, auto_tokenizer):
    folder = tmp_path / "model"
    folder.mkdir()
    template = "{% for message in messages %}<{{ message['content'] }}>{% endfor %}"
    foreign(
        folder, tokenizer_config={"chat_template": template, "eos_token": "</s>", "legacy": 1e-05}
    )
    (folder / "tokenizer.model").write_bytes(b"\x0a\x00")
    (folder / "config.json").write_text("{}")
    before = files_of(folder)
    del before["config.json"]
    save_huggingface(folder, tmp_path / "hf", model_max_length=77, verbatim=True)
    assert files_of(tmp_path / "hf") == before
    asked = [{"role": "user", "content": "a"}]
    theirs = auto_tokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.apply_chat_template(asked, tokenize=False) == "<a>"


@pytest.mark.parametrize("place", ["chat_template.jinja", None])
def test_our_template_is_written_only_where_there_is_none(tmp_path, auto_tokenizer, place):
    folder = tmp_path / "model"
    folder.mkdir()
    foreign(folder, tokenizer_config={"eos_token": "</s>"})
    if place is not None:
        (folder / place).write_text("own")
    save_huggingface(folder, tmp_path / "hf", verbatim=True)
    theirs = auto_tokenizer.from_pretrained(tmp_path / "hf")
    expected = "own" if place else chat_template(Tokenizer.load(folder))
    assert theirs.chat_template == expected
    added = set(files_of(tmp_path / "hf")) - set(files_of(folder))
    assert added == ({"chat_template.jinja"} if place is None else set())
