"""Examples from files of a user: by source and split, with what makes none named."""

import json

import pytest

from distrain.config.chats import SftDataConfig
from distrain.data.chats.pairs_file import read_user_pairs
from distrain.data.chats.reading import read_examples
from distrain.errors import DataError


def user_file(folder, lines, name="pairs.jsonl"):
    file = folder / name
    file.write_text("\n".join(lines) + "\n")
    return file


def line(prompt, answer="fine"):
    return json.dumps({"prompt": prompt, "answer": answer})


def read(file, **settings):
    data = SftDataConfig(path=str(file), **settings)
    return read_examples(data, stage_kind="sft")["main"]


def test_a_users_examples_are_split_by_their_prompt(tmp_path):
    lines = [line(f"question {n % 500}", f"answer {n}") for n in range(1000)]
    found = read(user_file(tmp_path, lines), validation_fraction=0.1)
    assert len(found.train) + len(found.validation) == 1000
    assert 60 < len(found.validation) < 140
    asked = [{example.asked for example in side} for side in (found.train, found.validation)]
    assert not asked[0] & asked[1]
    again = read(user_file(tmp_path, lines[::-1]), validation_fraction=0.1)
    assert {example.messages[1]["content"] for example in again.train} == {
        example.messages[1]["content"] for example in found.train
    }


def test_the_split_of_a_file_is_that_of_the_pairs_of_old(tmp_path):
    lines = [line(f"question {n}  \r\n", f"answer {n}") for n in range(40)]
    train, held_out = read_user_pairs(
        SftDataConfig(path=str(user_file(tmp_path, lines)), validation_fraction=0.1)
    )
    assert [pair.path for pair in held_out] == [f"pairs.jsonl:{n}" for n in OLD_SPLIT]
    assert train[0].prompt == "question 0"


OLD_SPLIT = [8, 14, 25, 29, 32, 39]
"""Numbers of lines that were held out before there were shapes."""


def test_a_small_file_still_has_something_to_validate_with(tmp_path):
    file = user_file(tmp_path, [line(f"question {n}") for n in range(4)])
    found = read(file, validation_fraction=0.001)
    assert (len(found.train), len(found.validation)) == (2, 2)
    with pytest.raises(DataError, match="3 different prompts; expected at least 4"):
        read(user_file(tmp_path, [line(f"question {n % 3}") for n in range(9)]))


def test_every_bad_row_is_counted_and_the_first_named(tmp_path):
    bad = ["{", "[]", '{"prompt": "x"}', '{"answer": "x"}', line(" "), line("x", "\x00"), "nul"]
    file = user_file(tmp_path, [line("good"), *bad, "", line("fine")])
    with pytest.raises(DataError) as caught:
        read(file)
    found = caught.value.found
    assert found.startswith(f"7 rows that make no example: {file}:2: not JSON")
    assert f"{file}:3: list where an object is expected" in found
    assert f"{file}:4: no field 'answer' (it has prompt)" in found
    assert f"{file}:6: 'prompt' is empty or no text and 2 more" in found
    assert f"{file}:2 first" in caught.value.remedy
    with pytest.raises(DataError, match="no file or folder"):
        read(tmp_path / "absent.jsonl")
