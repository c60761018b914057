"""What only the runtime can read is looked at as JSON lines are: Arrow, .zst, saved datasets."""

import json
import subprocess
import sys

import pyarrow
import pytest
import zstandard
from pyarrow import ipc, parquet

from distrain.config.chats import SftDataConfig
from distrain.config.recipe import Recipe
from distrain.data.chats.reading import read_examples
from distrain.errors import DataError
from launcher.inputs import runtime_rows
from launcher.inputs.sources import check_sources
from tests.launcher.inputs.test_chats import PAIRS, findings

BAD = {"prompt": "question", "answer": " ", "id": 6}


def write_zst(path, rows):
    lines = "\n".join(map(json.dumps, rows)).encode()
    path.write_bytes(zstandard.compress(lines))


def write_arrow(path, rows):
    table = pyarrow.Table.from_pylist(rows)
    with ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


def write_parquet(path, rows):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_saved(path, rows):
    path.mkdir()
    table = pyarrow.Table.from_pylist(rows)
    with ipc.new_stream(str(path / "data-00000-of-00001.arrow"), table.schema) as file:
        file.write_table(table)
    (path / "dataset_info.json").write_text("{}")


FORMS = {
    "a.jsonl.zst": (write_zst, "a.jsonl.zst", 7),
    "a.arrow": (write_arrow, "a.arrow", 6),
    "a.parquet": (write_parquet, "a.parquet", 6),
    "saved": (write_saved, "data-00000-of-00001.arrow", 6),
}


@pytest.mark.usefixtures("near")
@pytest.mark.parametrize("name", FORMS)
def test_shape_and_mistakes_are_those_that_the_stage_finds(name, tmp_path):
    write, shown, place = FORMS[name]
    path = tmp_path / name
    write(path, PAIRS)
    [note] = findings({"path": str(path)})
    assert note.message == f"data.path: {shown}: prompt and answer, 6 rows looked at; not read: id"
    again = tmp_path / "bad"
    again.mkdir()
    write(again / name, [*PAIRS, BAD])
    [wrong] = findings({"path": str(again / name)})
    assert f"{shown}:{place}: 'answer' is empty or no text" in wrong.message
    with pytest.raises(DataError, match=f"{shown}:{place}: 'answer' is empty"):
        read_examples(SftDataConfig(path=str(again / name)), stage_kind="sft")


@pytest.mark.usefixtures("near")
def test_damage_is_named_and_a_split_that_is_not_there(tmp_path):
    write_zst(tmp_path / "a.jsonl.zst", PAIRS * 50)
    whole = (tmp_path / "a.jsonl.zst").read_bytes()
    (tmp_path / "a.jsonl.zst").write_bytes(whole[:-20])
    [wrong] = findings({"path": str(tmp_path / "a.jsonl.zst")})
    assert "a.jsonl.zst: the file ends early" in wrong.message
    (tmp_path / "both").mkdir()
    write_saved(tmp_path / "both" / "train", PAIRS)
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    source = {"kind": "hub", "path": str(tmp_path / "both"), "split": "held_out"}
    [wrong] = findings({"source": source})
    assert "no split held_out; expected one of its splits: train" in wrong.message


def test_what_is_not_installed_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime_rows, "ask_once", lambda *_: {})
    write_arrow(tmp_path / "a.arrow", PAIRS)
    assert findings({"path": str(tmp_path / "a.arrow")}) == []
    write_parquet(tmp_path / "a.parquet", PAIRS)
    [note] = findings({"path": str(tmp_path / "a.parquet")})
    assert note.message == "data.path: a.parquet: prompt and answer, by its columns"


def test_documents_are_looked_at_by_a_process_of_the_runtime(tmp_path):
    write_arrow(tmp_path / "a.arrow", [{"body": "a text", "day": 1}])
    source = {"kind": "files", "paths": [str(tmp_path / "a.arrow")]}
    stage = {"kind": "prepare", "data": {"source": source}}
    recipe = Recipe.model_validate({"name": "texts", "stages": {"prepare": stage}})
    [wrong] = check_sources(recipe)
    assert wrong.path == ("data", "source", "text_field")
    assert "a.arrow:0, which has body, day; expected a field" in wrong.message
    assert "set it to one of body, day" in wrong.message


def test_a_process_that_has_answered_ends_well(tmp_path):
    """Threads of pyarrow's used to abort about every second one."""
    write_arrow(tmp_path / "a.arrow", [{"body": "a text"}])
    read = {"kind": "files", "paths": [str(tmp_path / "a.arrow")]}
    limits = {"files": 1, "rows": 1, "bytes": 100}
    question = json.dumps([{"read": read, "examples": False, "limits": limits}])
    asked = [
        subprocess.Popen(
            [sys.executable, "-m", "distrain", "first-look"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    for process in asked:
        out, _ = process.communicate(question, timeout=120)
        assert process.returncode == 0
        assert json.loads(out)[0]["files"][0]["rows"]
