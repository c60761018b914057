"""What a first look at examples says, and that it agrees with those who read them."""

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from distrain.config.chats import SftDataConfig
from distrain.config.recipe import Recipe
from distrain.data.chats.reading import read_examples
from distrain.errors import DataError
from launcher.inputs.chats import check_chats

PAIRS = [{"prompt": f"question {n}", "answer": "yes", "id": n} for n in range(6)]
STAGE = {"kind": "sft", "model": {"from_pretrained": "m"}, "training": {"max_steps": 1}}


def findings(data):
    stages = {"sft": {**STAGE, "data": data}}
    return list(check_chats(Recipe.model_validate({"name": "tuned", "stages": stages})))


def write(path, rows):
    lines = "\n".join(map(json.dumps, rows)).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz"])
def test_the_shape_is_said_with_what_is_not_read(name, tmp_path):
    [note] = findings({"path": write(tmp_path / name, PAIRS)})
    assert note.is_note
    assert note.message == (f"data.path: {name}: prompt and answer, 6 rows looked at; not read: id")


@pytest.mark.usefixtures("near")
def test_each_source_is_looked_at_with_its_fields(tmp_path):
    csv = tmp_path / "b.csv"
    csv.write_text('question,solution\nwho?,"me,\nhere"\n')
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    table = pyarrow.Table.from_pylist([{"dialogue": turns}])
    parquet.write_table(table, tmp_path / "c.parquet")
    files = {"kind": "files"}
    held_out = write(tmp_path / "d.json", [{"text": "other"}])
    data = {
        "sources": {
            "a": {**files, "paths": [write(tmp_path / "a.jsonl", PAIRS)]},
            "b": {**files, "paths": [str(csv)], "fields": {"prompt": "question",
                                                            "answer": "solution"}},
            "c": {**files, "paths": [str(tmp_path / "c.parquet")],
                  "fields": {"messages": "dialogue"}},
        },
        "validation": {**files, "paths": [held_out]},
    }  # fmt: skip
    assert [finding.message for finding in findings(data)] == [
        "data.sources.a: a.jsonl: prompt and answer, 6 rows looked at; not read: id",
        "data.sources.b: b.csv: prompt and answer, 1 row looked at",
        "data.sources.c: c.parquet: chat (messages), 1 row looked at",
        "data.validation: d.json: text, 1 row looked at",
    ]
    [wrong] = findings({"path": str(tmp_path / "c.parquet")})
    assert wrong.message.startswith(f"data.path: found {tmp_path}/c.parquet:0: a row of no form")
    assert "set data.fields to {messages: dialogue}" in wrong.message
    assert not wrong.is_note


BAD = [
    '{"prompt": "a"}',
    "[1]",
    "{",
    '{"prompt": "a", "answer": " "}',
    '{"messages": []}',
    '{"prompt": "a", "chosen": "b", "rejected": "c"}',
]


@pytest.mark.parametrize("row", BAD)
def test_launcher_and_runtime_refuse_the_same_rows(row, tmp_path):
    file = tmp_path / "a.jsonl"
    write(file, PAIRS)
    file.write_text(file.read_text() + f"\n{row}\n")
    [finding] = findings({"path": str(file)})
    with pytest.raises(DataError) as caught:
        read_examples(SftDataConfig(path=str(file)), stage_kind="sft")
    place = f"{file}:7: "
    assert place in finding.message
    assert place in caught.value.found
    [within] = findings({"path": str(file), "skip_budget": 1})
    assert within.is_note
    assert within.message.endswith("1 row left out")
    assert read_examples(SftDataConfig(path=str(file), skip_budget=1), stage_kind="sft")


def test_a_row_that_is_cut_off_by_the_look_is_not_judged(tmp_path):
    long = {"prompt": "x" * 2**18, "answer": "yes"}
    for name in ("a.jsonl", "a.json"):
        file = tmp_path / name
        rows = [*PAIRS, long, *PAIRS]
        file.write_text(json.dumps(rows, indent=1) if name == "a.json" else "\n".join(
            map(json.dumps, rows)))  # fmt: skip
        [note] = findings({"path": str(file)})
        assert "6 rows looked at" in note.message


def test_a_prompt_that_is_validated_with_too_is_refused_here_and_in_the_stage(tmp_path):
    own = write(tmp_path / "own.jsonl", [{"prompt": "else", "answer": "no"}, PAIRS[3]])
    data = {
        "path": write(tmp_path / "a.jsonl", PAIRS),
        "validation": {"kind": "files", "paths": [own]},
    }
    *notes, wrong = findings(data)
    assert [note.is_note for note in notes] == [True, True]
    assert wrong.path == ("data", "validation")
    assert f"found the prompt of {tmp_path}/a.jsonl:4 in {own}:2" in wrong.message
    with pytest.raises(DataError, match=r"a\.jsonl:4 and own\.jsonl:2"):
        read_examples(SftDataConfig.model_validate(data), stage_kind="sft")


def test_what_a_stage_measures_is_looked_at_as_what_one_trains_on(tmp_path):
    def of(data):
        stage = {"kind": "evaluate", "model": {"from_pretrained": "m"}, "data": data}
        return list(check_chats(Recipe.model_validate({"name": "m", "stages": {"own": stage}})))

    [note] = of({"path": write(tmp_path / "a.jsonl", PAIRS)})
    assert (note.stage, note.is_note) == ("own", True)
    [wrong] = of({"path": write(tmp_path / "b.jsonl", [*PAIRS, {"prompt": "alone"}])})
    assert wrong.message.startswith(f"data.path: found {tmp_path}/b.jsonl:7: ")
    assert not wrong.is_note


def test_what_all_rows_have_wrong_is_said_once(tmp_path):
    rows = [{"solution": "yes", "question": f"{n}"} for n in range(6)]
    rows[4] = {"solution": "yes"}
    [wrong] = findings({"path": write(tmp_path / "a.jsonl", rows)})
    assert wrong.message.count("set data.fields to") == 1
    assert "a.jsonl:1: a row of no form" in wrong.message
    assert "a.jsonl:5: a row of no form" in wrong.message
    assert "; and 4 more; expected" in wrong.message
