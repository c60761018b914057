"""Tokenizers with further control tokens: read by the library as they were planned."""

import json
from collections.abc import Callable

import pytest

from distrain.data.tokenizer.control_text import ControlText, TextPieces
from distrain.data.tokenizer.growing import grow_tokenizer
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.runs.sums import find_damage
from tests.distrain.data.chats.peer_templates import metaspace, word_piece
from tests.distrain.data.tokenizer.encoders.made import byte_level, t5_like

NAMES = ["<|call|>", "<|Ünder|>"]
KINDS: dict[str, Callable[[], str]] = {
    "byte-level": lambda: byte_level("bpe", "gpt2"),
    "unigram": t5_like,  # whose pieces hold the names of control tokens
    "metaspace": metaspace,
    "lower-case": word_piece,
}


@pytest.fixture(params=KINDS)
def base(request, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    content = json.loads(KINDS[request.param]())
    # As many say it: the first control token ends a text, whatever it is called.
    end = content["added_tokens"][0]["content"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    files = {
        "tokenizer_config.json": {
            "eos_token": end,
            "additional_special_tokens": [end],
            "added_tokens_decoder": {"0": {"content": end, "special": True}},
        },
        "special_tokens_map.json": {"eos_token": end, "additional_special_tokens": [end]},
        "added_tokens.json": {end: 0},
        "config.json": {"eos_token_id": 0, "hidden_size": 4, "vocab_size": 9},
    }
    for name, fields in files.items():
        (folder / name).write_text(json.dumps(fields))
    (folder / "chat_template.jinja").write_text("{{ messages }}<|call|>")
    return folder


def test_each_name_is_one_token_of_a_template_and_text_of_a_user(base, tmp_path):
    planned = grow_tokenizer(base, NAMES, tmp_path / "grown")
    before, after = Tokenizer.load(base), Tokenizer.load(tmp_path / "grown")
    first = before.vocab_size
    assert planned.new == {NAMES[0]: first, NAMES[1]: first + 1}
    assert after.vocab_size == first + 2
    assert (after.eos_id, after.pad_id) == (before.eos_id, before.pad_id)
    said = f"so be it {NAMES[0]} or{NAMES[1]}"
    assert after.encode(said) == before.encode(said)
    pieces = TextPieces([NAMES[0], "so be it", NAMES[1]], [False, True, False])
    ids = list(ControlText(after).encode([pieces])[0].ids)
    assert (ids[0], ids[-1]) == (first, first + 1)
    assert [after.name_of(number) for number in planned.new.values()] == NAMES
    assert NAMES[0] in after.decode(ids)
    assert NAMES[0] not in after.decode(ids, skip_control=True)
    assert after.is_grown_from(before)
    assert not before.is_grown_from(after)


def test_it_is_the_same_bytes_each_time_and_all_files_know_the_names(base, tmp_path):
    for name in ("one", "two"):
        grow_tokenizer(base, NAMES, tmp_path / name)
    files = {
        name: {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    }
    assert files["one"] == files["two"]
    assert find_damage(tmp_path / "one") is None
    first = Tokenizer.load(base).vocab_size
    read = {name: json.loads(text) for name, text in files["one"].items() if "json" in name}
    config = read["tokenizer_config.json"]
    assert config["additional_special_tokens"][1:] == NAMES
    assert config["added_tokens_decoder"][str(first)]["content"] == NAMES[0]
    assert read["special_tokens_map.json"]["additional_special_tokens"][1:] == NAMES
    assert read["added_tokens.json"] == {
        read["special_tokens_map.json"]["eos_token"]: 0,
        NAMES[0]: first,
        NAMES[1]: first + 1,
    }
    assert read["config.json"] == {"eos_token_id": 0}, "nothing of a model's sizes"
    assert files["one"]["chat_template.jinja"] == b"{{ messages }}<|call|>"
    # The control: other names, or another order, are other bytes.
    grow_tokenizer(base, NAMES[::-1], tmp_path / "other")
    assert (tmp_path / "other/tokenizer.json").read_bytes() != files["one"]["tokenizer.json"]


def test_names_that_are_there_change_nothing(base, tmp_path):
    grow_tokenizer(base, NAMES, tmp_path / "grown")
    planned = grow_tokenizer(tmp_path / "grown", NAMES, tmp_path / "again")
    assert planned.new == {}
    assert list(planned.known) == NAMES
    fingerprints = [Tokenizer.load(tmp_path / name).fingerprint for name in ("grown", "again")]
    assert fingerprints[0] == fingerprints[1]


def test_ids_that_the_library_would_give_otherwise_are_refused(tmp_path):
    content = json.loads(byte_level("bpe", "gpt2"))
    last = max(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["vocab"][last] += 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="ids have no gaps") as error:
        grow_tokenizer(tmp_path / "tokenizer.json", NAMES, tmp_path / "grown")
    assert error.value.where == "data.add_tokens"
    assert not (tmp_path / "grown").exists()
