import json
import sysconfig
from pathlib import Path
from typing import get_args

import pytest

from distrain.config.chats import ChatSource
from distrain.config.sources import DatasetsSource, FilesSource, PythonStdlibSource, TextSource
from distrain.data.sources import SOURCES, read_source
from distrain.data.sources.document import Broken, Document
from distrain.data.sources.python_stdlib import modules
from distrain.errors import DataError


def files(*paths, **settings):
    return list(read_source(FilesSource(kind="files", paths=paths, **settings)))


def datasets(format, path, **settings):
    source = DatasetsSource(kind="datasets", format=format, paths=(str(path),), **settings)
    return list(read_source(source))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "deep" / "z.py").write_text("x = 1\n")
    (tmp_path / "b" / "a.md").write_text("# über\n")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfwith a mark\r\n")
    (tmp_path / ".git" / "config").write_text("hidden")
    return tmp_path


def test_every_kind_of_the_schema_has_its_source():
    sections = [*get_args(TextSource), *get_args(ChatSource)]
    kinds = {get_args(section.model_fields["kind"].annotation)[0] for section in sections}
    assert kinds == set(SOURCES)


def test_the_standard_library_is_read_without_what_is_left_out():
    documents = list(read_source(PythonStdlibSource(kind="python_stdlib")))
    paths = [document.path for document in documents]
    assert paths == sorted(paths)
    assert {"argparse.py", "json/decoder.py", "asyncio/events.py"} <= set(paths)
    left_out = {"test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages"}
    assert not [path for path in paths if left_out & set(path.split("/")[:-1])]
    texts = [document.text for document in documents if isinstance(document, Document)]
    assert len(texts) == len(documents) > 400
    assert sum(map(len, texts)) > 6_000_000
    root = Path(sysconfig.get_path("stdlib"))
    assert texts[paths.index("json/decoder.py")] == (root / "json" / "decoder.py").read_text()


def test_more_folders_can_be_left_out():
    root = Path(sysconfig.get_path("stdlib"))
    assert not [file for file in modules(root, frozenset({"json"})) if file.parent.name == "json"]


def test_a_folder_stands_for_all_its_files_but_hidden_ones(folder):
    found = files(str(folder))
    assert [document.path for document in found] == [
        f"{folder}/{name}" for name in ("a.txt", "b/a.md", "b/deep/z.py")
    ]
    assert [document.text for document in found] == ["with a mark\r\n", "# über\n", "x = 1\n"]


def test_files_folders_and_globs_name_each_file_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = files("b/*.md", "b/**/*.py", "b", "a.txt")
    assert [document.path for document in found] == ["a.txt", "b/a.md", "b/deep/z.py"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\xff\xfe\x41", "not_utf8"), (b"PNG\0\0", "nul_bytes"), ("ü".encode("latin-1"), "not_utf8")],
)
def test_a_file_that_is_no_text_is_broken(tmp_path, content, reason):
    (tmp_path / "x").write_bytes(content)
    assert files(str(tmp_path / "x")) == [Broken(f"{tmp_path}/x", reason)]


def test_json_lines_are_documents_named_by_their_line(tmp_path):
    file = tmp_path / "notes.jsonl"
    lines = [
        json.dumps({"body": "one"}).encode(),
        b"",
        b"{",
        b'{"text": "another field"}',
        b'{"body": 3}',
        b"[1]",
        b'{"body": "\xff"}',
        json.dumps({"body": "last"}).encode(),
    ]
    file.write_bytes(b"\n".join(lines))
    assert files(str(file), text_field="body") == [
        Document("one", f"{file}:1"),
        Broken(f"{file}:3", "not_json"),
        Broken(f"{file}:4", "no_text_field"),
        Broken(f"{file}:5", "no_text_field"),
        Broken(f"{file}:6", "no_text_field"),
        Broken(f"{file}:7", "not_utf8"),
        Document("last", f"{file}:8"),
    ]


def test_paths_that_name_nothing_say_how_far_they_are_right(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file or folder") as caught:
        files(str(tmp_path / "absent" / "texts"))
    assert f"{tmp_path} is the last part of it that exists" in caught.value.remedy
    with pytest.raises(DataError, match="no files in the folder"):
        files(str(tmp_path / "empty"))
    with pytest.raises(DataError, match="no file that matches"):
        files(str(tmp_path / "*.txt"))


def test_datasets_reads_local_files_of_its_formats(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [{"body": text, "n": number} for number, text in enumerate(("one", None, "drei ü"))]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("body,n\none,0\n,1\ndrei ü,2\n")
    (tmp_path / "t.json").write_text("\n".join(json.dumps(row) for row in rows))
    for name in ("csv", "parquet", "json"):
        path = tmp_path / f"t.{name}"
        assert datasets(name, path, text_field="body") == [
            Document("one", f"{path}:0"),
            Broken(f"{path}:1", "no_text_field"),
            Document("drei ü", f"{path}:2"),
        ]
    (tmp_path / "t.txt").write_text("a\nb\n")
    assert [row.text for row in datasets("text", tmp_path / "t.txt")] == ["a", "b"]


def test_datasets_says_what_is_wrong_with_field_format_or_file(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text('{"body": "one"}\n')
    with pytest.raises(DataError, match=r"Set data\.source\.text_field to one of: body"):
        datasets("json", file)
    with pytest.raises(DataError, match=r"Set data\.source\.format to json, csv"):
        datasets("jsn", file)
    with pytest.raises(DataError, match="which is not parquet"):
        datasets("parquet", file)
    with pytest.raises(DataError, match="no file or folder"):
        datasets("json", tmp_path / "absent.json")
