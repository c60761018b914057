import json

import pytest

from distrain.data.chats.pairs_file import Pair, open_pairs, read_user_pairs
from distrain.errors import DataError, PreflightError
from tests.distrain.data.made_corpus import make_texts, write_split

PAIRS = [Pair(f"prompt {n} " * (n + 1), f"answer {n}", f"x.py:{n}") for n in range(12)]


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
