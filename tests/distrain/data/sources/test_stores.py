"""The same documents from every store, and what a store can do to a reader."""

import json
import threading
import time

import fsspec
import pytest

from distrain.config.chats import ChatFiles
from distrain.config.sources import DatasetsSource, FilesSection, FilesSource
from distrain.data.sources import open_rows, open_source, read_source, storage
from distrain.data.sources.document import Broken, Document
from distrain.data.sources.row_request import RowRequest
from distrain.errors import DataError
from tests.distrain.data.sources.samples import (
    EXPECTED,
    ROWS,
    every_format,
    files_source,
    json_lines,
    parquet_table,
    read_all,
    read_parts,
    texts_and_labels,
)
from tests.s3 import KINDS, Fault, random_faults, s3_server


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


@pytest.fixture(scope="module")
def s3():
    with s3_server() as server:
        yield server


@pytest.fixture
def small_requests(monkeypatch):
    """Files of a few kilobytes take several requests, as big ones do."""
    monkeypatch.setattr(storage, "REQUEST_BYTES", 1000)


def retries(**settings):
    return {"attempts": 8, "first_delay_s": 0.01, "timeout": "10s", "deadline": "20s", **settings}


def s3_source(s3, *paths, options=None, **settings):
    section = {
        "kind": "files",
        "paths": tuple(f"{s3.url}/{path}" for path in paths),
        "storage_options": s3.storage_options | (options or {}),
        "retries": retries(),
        **settings,
    }
    return FilesSource.model_validate(section)


@pytest.mark.parametrize("name", every_format())
@pytest.mark.parametrize("range_bytes", [1000, 2**26])
def test_a_store_gives_what_a_folder_gives(memory, tmp_path, name, range_bytes, small_requests):
    (tmp_path / name).write_bytes(every_format()[name])
    memory.pipe_file(f"/texts/{name}", every_format()[name])
    places = (f"{tmp_path}", f"file://{tmp_path}", "memory://texts")
    found = [read_all(files_source(f"{place}/{name}", label_field="label"), range_bytes)
             for place in places]  # fmt: skip
    assert [texts_and_labels(documents) for documents in found] == [EXPECTED] * 3
    names = [[document.path.rpartition("/")[2] for document in documents] for documents in found]
    assert names[0] == names[1] == names[2]
    assert found[2][0].path.startswith(f"memory:///texts/{name}:")


def test_folders_and_globs_of_a_store_name_files_once_and_in_order(memory):
    for name in ("b/z.txt", "b/a.md", "b/.git/config", "a.txt", ".hidden"):
        memory.pipe_file(f"/texts/{name}", name.encode())
    paths = ("memory://texts/b/*.md", "memory://texts", "memory://texts/a.txt")
    found = read_all(files_source(*paths))
    names = ["a.txt", "b/a.md", "b/z.txt"]
    assert found == [Document(name, f"memory:///texts/{name}") for name in names]
    starred = read_all(files_source("memory://texts/**/*.txt"))
    assert [document.text for document in starred] == ["a.txt", "b/z.txt"]


def test_files_of_here_and_of_a_store_can_be_read_together(memory, tmp_path):
    memory.pipe_file("/texts/a.txt", b"there")
    (tmp_path / "a.txt").write_text("here")
    found = read_all(files_source("memory://texts", tmp_path))
    assert [document.text for document in found] == ["here", "there"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://texts/none", "no file or folder memory://texts/none"),
        ("memory://texts/*.md", "no file that matches memory://texts"),
        ("memory://empty", "no files in the folder memory://empty"),
        ("nosuch://texts", "Protocol not known: nosuch"),
    ],
)
def test_urls_that_name_nothing_are_refused(memory, url, message):
    memory.pipe_file("/texts/a.txt", b"x")
    memory.makedirs("/empty", exist_ok=True)  # outlives the test
    with pytest.raises(DataError, match=message.replace("*", r"\*")):
        open_source(files_source(url)).files()


def test_a_store_without_its_module_names_the_extra(monkeypatch):
    import sys

    from fsspec.registry import _registry

    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    monkeypatch.delitem(_registry, "gs", raising=False)
    with pytest.raises(DataError, match="the module gcsfs") as caught:
        open_source(files_source("gs://bucket/texts")).files()
    assert "pip install 'distrain[remote]'" in caught.value.remedy


def test_options_that_a_store_does_not_take_are_refused():
    source = files_source("s3://b/x", storage_options={"config_kwargs": {"no_such": 1}})
    with pytest.raises(DataError, match="no_such"):
        open_source(source).files()


def test_the_datasets_library_reads_files_of_this_machine_only():
    source = DatasetsSource(kind="datasets", format="json", paths=("s3://b/x.json",))
    with pytest.raises(DataError, match="Use a source of kind files"):
        list(read_source(source))


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.parquet"])
def test_an_object_that_changed_or_shrank_is_refused(memory, small_requests, name):
    content = parquet_table() if name == "x.parquet" else json_lines()
    memory.pipe_file(f"/texts/{name}", content)
    source = files_source("memory://texts")
    reader = open_source(source, 1000)
    parts = reader.ranges(reader.files())
    time.sleep(0.001)
    for change in (content, content[:-1], content + b" "):  # the first is only as new
        memory.pipe_file(f"/texts/{name}", change)
        for part in (parts[0], parts[-1]):
            with pytest.raises(DataError, match="that were listed"):
                list(reader.read(part))
    memory.rm(f"/texts/{name}")
    with pytest.raises(DataError, match="no such file"):
        list(reader.read(parts[0]))


def test_an_object_that_changes_while_it_is_read_is_refused(memory, small_requests):
    memory.pipe_file("/texts/x.jsonl", json_lines())
    reader = open_source(files_source("memory://texts"))
    documents = reader.read(reader.ranges(reader.files())[0])
    assert next(documents) == Document("text 0 ü\nits line", "memory:///texts/x.jsonl:1")
    memory.pipe_file("/texts/x.jsonl", json_lines()[::-1])
    with pytest.raises(DataError, match="that were listed"):
        list(documents)


@pytest.mark.data
@pytest.mark.parametrize("name", every_format())
@pytest.mark.parametrize("range_bytes", [1000, 2**26])
def test_s3_and_http_give_what_a_folder_gives(s3, name, range_bytes, small_requests):
    s3.faults(())
    s3.put(f"same/{name}", every_format()[name])
    from_s3 = read_all(s3_source(s3, f"same/{name}", label_field="label"), range_bytes)
    assert texts_and_labels(from_s3) == EXPECTED
    source = files_source(f"{s3.endpoint}/texts/same/{name}", label_field="label")
    assert texts_and_labels(read_all(source, range_bytes)) == EXPECTED


@pytest.mark.data
def test_folders_and_globs_of_s3(s3):
    s3.faults(())
    for name in ("b/z.txt", "b/a.md", "a.txt"):
        s3.put(f"listed/{name}", name.encode())
    found = read_all(s3_source(s3, "listed", "listed/b/*.md"))
    assert [document.text for document in found] == ["a.txt", "b/a.md", "b/z.txt"]
    assert found[0].path == f"{s3.url}/listed/a.txt"
    with pytest.raises(DataError, match="no file or folder"):
        read_all(s3_source(s3, "nothing-here"))


@pytest.mark.data
@pytest.mark.parametrize("kind", KINDS)
def test_one_fault_at_each_request_is_survived(s3, kind, small_requests):
    s3.put("faults/x.jsonl", json_lines())
    source = s3_source(s3, "faults/x.jsonl")
    s3.faults(())
    before = s3.counts.total()
    parts, whole = read_parts(source, 4000)
    requests = s3.counts.total() - before
    assert requests > 10
    for methods in (("GET",), ("HEAD",)):
        s3.faults((kind if number % 2 else None for number in range(1000)), methods)
        before = s3.counts[kind]
        assert read_parts(source, 4000) == (parts, whole)
        assert s3.counts[kind] > before


@pytest.mark.data
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.arrow", "a.ndjson.gz"])
def test_faults_at_random_change_nothing(s3, seed, name, small_requests):
    s3.put(f"random/{name}", every_format()[name])
    s3.faults(random_faults(seed, 0.5, seconds=0.01), ("GET", "HEAD"))
    before = sum(s3.counts[kind] for kind in KINDS)
    section = retries(attempts=20)
    source = s3_source(s3, f"random/{name}", label_field="label", retries=section)
    assert texts_and_labels(read_all(source, 4000)) == EXPECTED
    s3.faults(())
    assert sum(s3.counts[kind] for kind in KINDS) > before


@pytest.mark.data
@pytest.mark.parametrize("fault", ["busy", "reset", "truncate"])
def test_a_store_that_stays_down_is_given_up_at_the_deadline(s3, fault):
    s3.faults(())
    s3.put("down/x.txt", b"text" * 100)
    section = retries(attempts=1000, first_delay_s=0.2, deadline="2s")
    source = s3_source(s3, "down/x.txt", retries=section)
    reader = open_source(source)
    [part] = reader.ranges(reader.files())
    s3.always(fault, ("GET",))
    began = time.monotonic()
    with pytest.raises(DataError, match="within 1000 attempts and 2 s"):
        list(reader.read(part))
    s3.faults(())
    assert time.monotonic() - began < 4
    assert list(reader.read(part)) == [Document("text" * 100, f"{s3.url}/down/x.txt")]


@pytest.mark.data
def test_a_store_that_does_not_answer_is_given_up_at_the_deadline(s3):
    s3.faults(())
    s3.put("late/x.txt", b"text")
    source = s3_source(s3, "late/x.txt", retries=retries(timeout="1s", deadline="2s"))
    reader = open_source(source)
    [part] = reader.ranges(reader.files())
    s3.always(Fault("late", seconds=5), ("GET",))
    began = time.monotonic()
    with pytest.raises(DataError, match="Timeout"):
        list(reader.read(part))
    s3.faults(())
    assert time.monotonic() - began < 5


@pytest.mark.data
def test_an_error_for_good_is_not_asked_again(s3):
    s3.faults(())
    s3.put("gone/x.txt", b"text")
    reader = open_source(s3_source(s3, "gone/x.txt"))
    [part] = reader.ranges(reader.files())
    s3.delete("gone/x.txt")
    before = s3.counts["GET"]
    with pytest.raises(DataError, match="no such file"):
        list(reader.read(part))
    assert s3.counts["GET"] == before + 1

    s3.put("gone/x.txt", b"text")
    [part] = reader.ranges(reader.files())
    s3.always(Fault("busy", status=403))
    before = s3.counts["GET"] + s3.counts["HEAD"]
    with pytest.raises(DataError, match="give the store's credentials"):
        list(reader.read(part))
    s3.faults(())
    assert s3.counts["GET"] + s3.counts["HEAD"] == before + 1


@pytest.mark.data
def test_an_object_that_is_replaced_is_refused_also_by_another_process(s3, small_requests):
    s3.faults(())
    s3.put("replaced/x.jsonl", json_lines())
    source = s3_source(s3, "replaced/x.jsonl")
    reader = open_source(source, 4000)
    parts = reader.ranges(reader.files())
    s3.put("replaced/x.jsonl", json_lines().replace(b"1", b"2"))
    for part in (parts[0], parts[-1]):
        with pytest.raises(DataError, match="that were listed"):
            list(open_source(source, 4000).read(part))


@pytest.mark.data
def test_threads_may_read_ranges_at_the_same_time(s3, small_requests):
    s3.put("threads/x.jsonl", json_lines())
    s3.faults(random_faults(3, 0.2, seconds=0.01))
    source = s3_source(s3, "threads/x.jsonl")
    reader = open_source(source, 1000)
    parts = reader.ranges(reader.files())
    found: dict[int, list[Document | Broken]] = {}

    def read(first: int) -> None:
        for number in range(first, len(parts), 4):
            found[number] = list(reader.read(parts[number]))

    threads = [threading.Thread(target=read, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    s3.faults(())
    assert [item for number in sorted(found) for item in found[number]] == read_all(source)


@pytest.mark.data
def test_rows_of_examples_come_whole_from_a_store_that_fails(s3, small_requests):
    s3.put("chats/a.jsonl", json_lines())
    s3.put("chats/b.json", json.dumps(ROWS).encode())
    s3.faults(random_faults(3, 0.3, seconds=0.01))
    before = sum(s3.counts[kind] for kind in KINDS)
    source = s3_source(s3, "chats", retries=retries(attempts=20))
    fields = {name: getattr(source, name) for name in FilesSection.model_fields}
    reader = open_rows(ChatFiles(**fields))
    [part] = reader.ranges(reader.files())
    found = list(reader.rows(part, RowRequest(2**20)))
    s3.faults(())
    assert sum(s3.counts[kind] for kind in KINDS) > before
    assert [getattr(row, "fields", row) for row in found] == ROWS * 2
    assert found[300].path == f"{s3.url}/chats/b.json:1"
