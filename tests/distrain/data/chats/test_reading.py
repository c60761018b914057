"""Examples from files of a user: by source and split, with what makes none named."""

import gzip
import json

import fsspec
import pytest
import zstandard

from distrain.config.chats import SftDataConfig
from distrain.data.chats.reading import read_examples
from distrain.errors import DataError
from tests.distrain.data.sources.samples import arrow_file, csv_table, json_lines, parquet_table


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
    found = read(user_file(tmp_path, lines), validation_fraction=0.1)
    assert [each.path for each in found.validation] == [f"pairs.jsonl:{n}" for n in OLD_SPLIT]
    assert found.train[0].messages[0]["content"] == "question 0"


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


CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"question {n} ü"},
            {"role": "assistant", "content": "one\ntwo"},
        ],
        "id": n,
    }
    for n in range(9)
]


CHAT_FILES = {
    "a.jsonl": json_lines(CHATS),
    "a.jsonl.gz": gzip.compress(json_lines(CHATS)),
    "a.jsonl.zst": zstandard.compress(json_lines(CHATS)),
    "a.json": json.dumps(CHATS, indent=1).encode(),
    "a.json.gz": gzip.compress(json.dumps(CHATS).encode()),
    "a.csv": csv_table(
        [{"messages": json.dumps(row["messages"]), "id": row["id"]} for row in CHATS]
    ),
    "a.parquet": parquet_table(CHATS),
    "a.feather": arrow_file(CHATS),
    "a.arrow": arrow_file(CHATS, is_stream=True),
}


@pytest.mark.parametrize("name", CHAT_FILES)
@pytest.mark.parametrize("is_url", [False, True])
def test_every_format_here_and_in_a_store_gives_the_same_examples(name, is_url, tmp_path):
    if is_url:
        fsspec.filesystem("memory").pipe_file(f"/chats/{name}", CHAT_FILES[name])
    (tmp_path / name).write_bytes(CHAT_FILES[name])
    found = read(f"memory://chats/{name}" if is_url else tmp_path / name)
    assert len(found.train) + len(found.validation) == len(CHATS)
    by_path = sorted(found.examples, key=lambda example: example.messages[0]["content"])
    assert [list(example.messages) for example in by_path] == [row["messages"] for row in CHATS]
    assert all(example.path.startswith(f"{name}:") for example in found.examples)
    assert (found.shape, found.ignored) == ("chat (messages)", {"id": 9})


def test_a_saved_dataset_is_read_by_its_folder(tmp_path):
    import datasets

    saved = datasets.Dataset.from_list(CHATS)
    saved.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "several")
    for name in ("one", "several"):
        found = read(tmp_path / name)
        assert [len(found.examples), found.shape] == [9, "chat (messages)"]
    library = {"kind": "datasets", "format": "json", "paths": [str(tmp_path / "a.jsonl")]}
    (tmp_path / "a.jsonl").write_bytes(json_lines(CHATS))
    data = SftDataConfig.model_validate({"source": library})
    assert len(read_examples(data, stage_kind="sft")["main"].examples) == 9


def test_plain_text_is_an_example_a_file_or_a_line(tmp_path):
    for n in range(5):
        (tmp_path / f"{n}.txt").write_text(f"text {n}\nsecond line\n")
    whole = read(tmp_path)
    assert {example.completion for example in whole.examples} == {
        f"text {n}\nsecond line\n" for n in range(5)
    }
    assert {example.path for example in whole.examples} == {f"{n}.txt" for n in range(5)}
    lines = {"kind": "files", "paths": [str(tmp_path)], "format": "lines"}
    data = SftDataConfig.model_validate({"source": lines})
    found = read_examples(data, stage_kind="sft")["main"]
    assert len(found.examples) == 10
    (tmp_path / "5.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"5\.txt: 'text' is not UTF-8"):
        read(tmp_path)


def test_texts_of_chats_stay_as_they_are_and_pairs_are_normalized(tmp_path):
    turns = [{"role": "user", "content": " a \r\n"}, {"role": "assistant", "content": "b \n"}]
    rows = [{"messages": [{**turns[0], "content": f" a{n} \r\n"}, turns[1]]} for n in range(4)]
    chats = read(user_file(tmp_path, map(json.dumps, rows)))
    assert chats.examples[0].messages[1]["content"] == "b \n"
    pairs = read(user_file(tmp_path, [line(f" a{n} \r\n", "b \n") for n in range(4)]))
    assert {example.messages[1]["content"] for example in pairs.examples} == {"b"}
    assert " a0" in {example.messages[0]["content"] for example in pairs.examples}


def test_rows_within_the_budget_are_left_out_and_listed(tmp_path):
    file = user_file(tmp_path, [line(f"question {n}") for n in range(8)] + ["{", "[]"])
    with pytest.raises(DataError, match="2 rows that make no example"):
        read(file, skip_budget=1)
    found = read(file, skip_budget=2)
    assert list(map(str, found.refused)) == [
        f"{file}:9: not JSON",
        f"{file}:10: list where an object is expected",
    ]


@pytest.mark.parametrize("text", ["\\ud800", "a\\u0000b"])
def test_what_no_tokenizer_takes_is_refused(text, tmp_path):
    row = f'{{"text": "{text}"}}'
    with pytest.raises(DataError, match=r"pairs\.jsonl:5: a text "):
        read(user_file(tmp_path, [json.dumps({"text": f"text {n}"}) for n in range(4)] + [row]))


def several(tmp_path, **settings):
    section = {
        name: {"kind": "files", "paths": [str(user_file(tmp_path, lines, f"{name}.jsonl"))]}
        for name, lines in {
            "one": [line(f"question {n}") for n in range(60)],
            "two": [line(f"question {n}", "other") for n in range(40, 90)],
        }.items()
    }
    return {"sources": section, **settings}


def test_equal_prompts_of_all_sources_stay_together(tmp_path):
    data = SftDataConfig.model_validate(several(tmp_path, validation_fraction=0.3))
    found = read_examples(data, stage_kind="sft")
    assert list(found) == ["one", "two"]
    sides = [
        {example.asked for source in found.values() for example in getattr(source, side)}
        for side in ("train", "validation")
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 90
    assert all(source.validation for source in found.values())


def test_the_test_split_is_for_evaluate_alone(tmp_path):
    file = user_file(tmp_path, [line(f"question {n}") for n in range(200)])
    data = SftDataConfig(path=str(file), test_fraction=0.2)
    trained = read_examples(data, stage_kind="sft")["main"]
    assert trained.test == []
    measured = read_examples(data, stage_kind="evaluate")["main"]
    assert 20 < len(measured.test) < 60
    assert (measured.train, measured.validation) == (trained.train, trained.validation)
    without = read(file)
    assert without.validation == trained.validation
    assert len(without.train) == len(measured.train) + len(measured.test)


def test_of_few_prompts_two_are_for_the_test(tmp_path):
    """That there are too few would be found after the training, when the split is opened."""
    file = user_file(tmp_path, [line(f"question {n}") for n in range(20)])
    settings = SftDataConfig(path=str(file), test_fraction=0.001, validation_fraction=0.001)
    measured = read_examples(settings, stage_kind="evaluate")["main"]
    sizes = [len(side) for side in (measured.train, measured.validation, measured.test)]
    assert sizes == [16, 2, 2]
    assert read_examples(settings, stage_kind="sft")["main"].train == measured.train
    few = user_file(tmp_path, [line(f"question {n}") for n in range(5)], "few.jsonl")
    with pytest.raises(DataError, match=r"5 different prompts; expected at least 6: .* the test"):
        read(few, test_fraction=0.001)
    assert len(read(few).train) == 3  # the control: nothing is for the test


def test_a_validation_source_is_held_out_whole_and_shares_no_prompt(tmp_path):
    own = user_file(tmp_path, [line(f"held out {n}") for n in range(3)], "held_out.jsonl")
    source = {"kind": "files", "paths": [str(own)]}
    data = SftDataConfig.model_validate(several(tmp_path, validation=source))
    found = read_examples(data, stage_kind="sft")
    assert {name: len(each.validation) for name, each in found.items()} == {
        "one": 0,
        "two": 0,
        "validation": 3,
    }
    assert (len(found["one"].train), found["validation"].train) == (60, [])
    user_file(tmp_path, [line("held out"), line("question 7 \n")], "held_out.jsonl")
    with pytest.raises(DataError, match=r"one\.jsonl:8 and held_out\.jsonl:2"):
        read_examples(data, stage_kind="sft")
