import json

import pytest

from distrain.data.pairs.reading import (
    Pair,
    encode_pairs,
    open_pairs,
    read_user_pairs,
    sft_dataset,
    shuffle_prompts,
)
from distrain.data.prompts import pair_ids, prompt_ids
from distrain.data.samples import IGNORE_INDEX
from distrain.data.tokenizer import Tokenizer
from distrain.errors import DataError, PreflightError
from tests.distrain.data.made_corpus import make_texts, make_tokenizer, write_split
from tests.distrain.data.test_tokenizer import foreign

PAIRS = [Pair(f"prompt {n} " * (n + 1), f"answer {n}", f"x.py:{n}") for n in range(12)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_only_the_answer_and_its_end_are_targets(tokenizer):
    (pair,) = encode_pairs([Pair("is it", "yes", "")], tokenizer, 100)
    inputs, targets = pair
    assert tokenizer.decode(inputs) == "<|user|>is it<|assistant|>yes"
    asked = targets[targets != IGNORE_INDEX]
    assert tokenizer.decode(asked) == "yes<|endoftext|>"
    # The first target follows <|assistant|>, at the last position of the prompt.
    assert inputs[list(targets).index(asked[0])] == tokenizer.assistant_id


@pytest.mark.parametrize("length", range(2, 40))
def test_a_long_prompt_loses_its_beginning_and_never_the_answer(tokenizer, length):
    pair = Pair("value " * 20 + "end", "return self", "")
    ((inputs, targets),) = encode_pairs([pair], tokenizer, length)
    answer = [*tokenizer.encode("return self"), tokenizer.eos_id]
    asked = targets[targets != IGNORE_INDEX].tolist()
    assert len(inputs) == len(targets) <= length
    assert asked == answer[: length - 1]
    assert (inputs[0], *inputs[len(inputs) - len(asked) : len(inputs)]) == (
        tokenizer.user_id,
        tokenizer.assistant_id,
        *asked[:-1],
    )
    if len(inputs) > len(answer) + 4:
        assert tokenizer.decode(inputs).split("<|assistant|>")[0].endswith("end")


def test_foreign_tokenizers_get_plain_text_after_their_own_prefix(tmp_path):
    tokenizer = Tokenizer.load(foreign(tmp_path, tokenizer_config={"eos_token": "</s>"}))
    ids, before = pair_ids(tokenizer, tokenizer.encode("a"), [5], max_tokens=1000)
    assert ids[before:] == [5, tokenizer.eos_id]
    assert ids[:before] == prompt_ids(tokenizer, tokenizer.encode("a"))
    assert ids[0] == 0
    assert not set(ids[1:-1]) & {0, 1}


def test_shuffled_prompts_are_all_there_and_none_at_its_place(tokenizer):
    for count in (2, 3, 12):
        shuffled = shuffle_prompts(PAIRS[:count], seed=3)
        assert [pair.answer for pair in shuffled] == [pair.answer for pair in PAIRS[:count]]
        assert {pair.prompt for pair in shuffled} == {pair.prompt for pair in PAIRS[:count]}
        assert all(a.prompt != b.prompt for a, b in zip(shuffled, PAIRS, strict=False))
    assert shuffle_prompts(PAIRS, seed=3) == shuffle_prompts(PAIRS, seed=3)
    assert shuffle_prompts(PAIRS, seed=3) != shuffle_prompts(PAIRS, seed=4)
    with pytest.raises(ValueError, match="needs two"):
        shuffle_prompts(PAIRS[:1], seed=3)
    own = sft_dataset(PAIRS, tokenizer, 16)
    other = sft_dataset(shuffle_prompts(PAIRS, seed=3), tokenizer, 16)
    for (_, targets), (_, other_targets) in zip(own.examples, other.examples, strict=True):
        answer = targets[targets != IGNORE_INDEX].tolist()
        assert answer == other_targets[other_targets != IGNORE_INDEX].tolist()


def test_pairs_of_a_split_come_back_and_those_of_the_test_split_to_evaluate_only(tmp_path):
    for split in ("train", "test"):
        write_split(tmp_path, split, make_texts(2), pairs=[pair.to_json() for pair in PAIRS])
    assert open_pairs(tmp_path, "train", stage_kind="sft") == PAIRS
    assert open_pairs(tmp_path, "test", stage_kind="evaluate") == PAIRS
    for kind in ("prepare", "pretrain", "sft", "export", ""):
        with pytest.raises(PreflightError, match="opening the test split"):
            open_pairs(tmp_path, "test", stage_kind=kind)


def test_damaged_pairs_are_found_and_missing_ones_explained(tmp_path):
    write_split(tmp_path, "train", make_texts(2), pairs=[pair.to_json() for pair in PAIRS])
    file = tmp_path / "train" / "main" / "pairs.jsonl"
    file.write_bytes(file.read_bytes().replace(b"answer 3", b"answer 4"))
    with pytest.raises(DataError, match=r"pairs\.jsonl"):
        open_pairs(tmp_path, "train", stage_kind="sft")
    write_split(tmp_path, "train", make_texts(2))
    with pytest.raises(DataError, match=r"Set pairs\.kind to docstrings"):
        open_pairs(tmp_path, "train", stage_kind="sft")


def user_file(folder, lines):
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def line(prompt, answer="fine"):
    return json.dumps({"prompt": prompt, "answer": answer})


def test_a_users_pairs_are_split_by_their_prompt(tmp_path):
    lines = [line(f"question {n % 500}", f"answer {n}") for n in range(1000)]
    train, held_out = read_user_pairs(user_file(tmp_path, lines), 0.1)
    assert len(train) + len(held_out) == 1000
    assert 60 < len(held_out) < 140
    assert not {pair.prompt for pair in train} & {pair.prompt for pair in held_out}
    again, _ = read_user_pairs(user_file(tmp_path, lines[::-1]), 0.1)
    assert {pair.answer for pair in again} == {pair.answer for pair in train}


def test_a_small_file_still_has_something_to_validate_with(tmp_path):
    file = user_file(tmp_path, [line(f"question {n}") for n in range(4)])
    train, held_out = read_user_pairs(file, 0.001)
    assert (len(train), len(held_out)) == (2, 2)
    with pytest.raises(DataError, match="3 different prompts; expected at least 4"):
        read_user_pairs(user_file(tmp_path, [line(f"question {n % 3}") for n in range(9)]), 0.1)


def test_every_bad_line_is_counted_and_the_first_named(tmp_path):
    bad = ["{", "[]", '{"prompt": "x"}', '{"answer": "x"}', line(" "), line("x", "\x00"), "nul"]
    file = user_file(tmp_path, [line("good"), *bad, "", line("fine")])
    with pytest.raises(DataError) as caught:
        read_user_pairs(file, 0.1)
    found = caught.value.found
    assert found.startswith("7 bad lines: line 2: not JSON")
    assert "line 3: list where an object is expected" in found
    assert "line 4: no field 'answer' (it has prompt)" in found
    assert "line 6: 'prompt' is empty or no text and 2 more" in found
    assert "line 2 first" in caught.value.remedy
    file.write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="line 1: not UTF-8"):
        read_user_pairs(file, 0.1)
    with pytest.raises(DataError, match="no readable file"):
        read_user_pairs(tmp_path / "absent.jsonl", 0.1)
