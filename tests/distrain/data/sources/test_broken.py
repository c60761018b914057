import gzip
import io
import json
import os
import tracemalloc

import pytest
import zstandard

from distrain.data.sources import lines, open_source
from distrain.data.sources.document import BROKEN_REASONS, Broken, Document
from distrain.data.sources.lines import read_lines
from distrain.errors import DataError
from tests.distrain.data.sources.samples import (
    ROWS,
    arrow_file,
    csv_table,
    files_source,
    json_lines,
    parquet_table,
    read_all,
)


def read(folder, name, content, **settings):
    (folder / name).write_bytes(content)
    found = read_all(files_source(folder / name, **settings))
    assert {item.reason for item in found if isinstance(item, Broken)} <= BROKEN_REASONS
    return [
        item if isinstance(item, Document) else Broken(item.path.rpartition("/")[2], item.reason)
        for item in found
    ]


def broken_of(found):
    return [item for item in found if isinstance(item, Broken)]


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz", "x.txt.zst"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\xff\xfe\x41", "not_utf8"), (b"PNG\0\0", "nul_bytes"), (b"x" * 101, "too_long")],
)
def test_a_file_that_is_no_text_is_named(tmp_path, name, content, reason):
    if name.endswith(".gz"):
        content = gzip.compress(content)
    elif name.endswith(".zst"):
        content = zstandard.compress(content)
    assert read(tmp_path, name, content, max_document_bytes=100) == [Broken(name, reason)]


def test_a_line_that_is_no_document_is_named_and_the_next_one_is_read(tmp_path):
    content = [
        b'\xef\xbb\xbf{"body": "after a mark"}',
        b"{",
        b'{"text": "another field"}',
        b'{"body": "\\u0000"}',
        b'{"body": "half \\ud800"}',
        b'{"body": "\xff"}',
        b'{"body": "' + b"x" * 200 + b'"}',
        b" \t",
        b'{"body": "last", "n": NaN}\r',
    ]
    found = read(
        tmp_path, "n.jsonl", b"\n".join(content), text_field="body", max_document_bytes=100
    )
    assert found == [
        Document("after a mark", f"{tmp_path}/n.jsonl:1"),
        Broken("n.jsonl:2", "not_json"),
        Broken("n.jsonl:3", "no_text_field"),
        Broken("n.jsonl:4", "nul_bytes"),
        Broken("n.jsonl:5", "not_utf8"),
        Broken("n.jsonl:6", "not_utf8"),
        Broken("n.jsonl:7", "too_long"),
        Document("last", f"{tmp_path}/n.jsonl:9"),
    ]


def test_json_lines_are_the_same_without_orjson(tmp_path, monkeypatch):
    pytest.importorskip("orjson")
    values = ["a", "\ud800", 1, None, "ü", "\x00"]
    content = "\n".join(
        [
            *(json.dumps({"text": value, "label": 1.5}) for value in values),
            '{"text": "x", "label": true, "n": NaN}',
            '{"text": "twice", "text": "last"}',
            "[" * 5000,
            '{"text": "x"} y',
        ]
    ).encode("utf-8", "surrogatepass")
    (tmp_path / "n.jsonl").write_bytes(content + b'\n{"text": "\xff"}')
    source = files_source(tmp_path / "n.jsonl", label_field="label")
    fast = read_all(source)
    monkeypatch.setattr(lines, "_orjson_or_none", None)
    assert read_all(source) == fast
    assert [item.label for item in fast if isinstance(item, Document)] == [
        "1.5", "1.5", "true", None,
    ]  # fmt: skip


def test_a_line_of_gigabytes_is_never_held_in_memory():
    class Endless(io.RawIOBase):
        left = 200 * 2**20

        def readable(self):
            return True

        def readinto(self, buffer):
            count = min(len(buffer), self.left)
            self.left -= count
            buffer[:count] = b"x" * count
            return count

    stream = io.BufferedReader(Endless(), 2**16)
    tracemalloc.start()
    try:
        assert list(read_lines(stream, 2**20)) == [None]
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.data
def test_a_sparse_file_of_two_gigabytes_is_passed_over(tmp_path):
    file = tmp_path / "n.jsonl"
    file.write_bytes(b'{"text": "first"}\n')
    os.truncate(file, 2 * 2**30)
    with file.open("ab") as end:
        end.write(b'\n{"text": "last"}\n')
    found = read_all(files_source(file, max_document_bytes=2**20))
    assert found == [
        Document("first", f"{file}:1"),
        Broken(f"{file}:2", "too_long"),
        Document("last", f"{file}:3"),
    ]
    os.truncate(file, 2 * 2**30)
    assert read_all(files_source(file, format="text")) == [Broken(f"{file}", "too_long")]


@pytest.mark.parametrize("name", ["n.jsonl.gz", "n.jsonl.zst"])
def test_a_compressed_file_that_ends_early_is_read_up_to_there(tmp_path, name):
    rows = [{"text": f"{number} {os.urandom(200).hex()}"} for number in range(2000)]
    checked = zstandard.ZstdCompressor(write_checksum=True)  # as the command zstd does
    compress = gzip.compress if name.endswith("gz") else checked.compress
    content = compress(json_lines(rows))
    whole = read(tmp_path, name, content)
    assert len(whole) == 2000
    assert not broken_of(whole)
    short = read(tmp_path, name, content[:-9])
    assert short[-1] == Broken(name, "truncated")
    assert 1500 < len(short) - 1 < 2000
    assert short[:-1] == whole[: len(short) - 1]
    middle = len(content) // 2
    mixed = content[:middle] + os.urandom(50) + content[middle + 50 :]
    damaged = read(tmp_path, name, mixed)
    assert damaged[-1] == Broken(name, "damaged")
    assert read(tmp_path, name, b"") == [Broken(name, "truncated")]
    assert read(tmp_path, name, b"plain text") == [Broken(name, "damaged")]
    assert read(tmp_path, name, content + content) == [
        *whole,
        *(Document(item.text, f"{tmp_path}/{name}:{row}") for row, item in enumerate(whole, 2001)),
    ]


def test_of_damaged_parquet_the_sound_row_groups_are_read(tmp_path):
    rows = [{"text": f"{row} {os.urandom(20).hex()}"} for row in range(40)]
    content = parquet_table(rows, row_group_size=10, compression="none", use_dictionary=False)
    at = content.index(rows[13]["text"].encode())
    spoilt = content[: at - 4] + b"\xff\xff\xff\x7f" + content[at:]  # a length
    found = read(tmp_path, "p.parquet", spoilt)
    assert broken_of(found) == [Broken("p.parquet:10-19", "damaged")]
    assert [item.path.rpartition(":")[2] for item in found if isinstance(item, Document)] == [
        str(row) for row in (*range(10), *range(20, 40))
    ]
    for name, content_ in (("cut", content[:-20]), ("none", b""), ("text", b"PAR1 text")):
        assert read(tmp_path, f"{name}.parquet", content_) == [Broken(f"{name}.parquet", "damaged")]


def test_big_parquet_without_a_footer_is_one_broken_range(tmp_path):
    (tmp_path / "p.parquet").write_bytes(parquet_table()[:-20])
    assert read_all(files_source(tmp_path / "p.parquet"), 10) == [
        Broken(f"{tmp_path}/p.parquet", "damaged")
    ]


def test_an_arrow_file_that_was_not_written_to_its_end_is_named(tmp_path):
    stream = arrow_file(is_stream=True)
    whole = read(tmp_path, "s.arrow", stream)
    assert len(whole) == len(ROWS)
    assert read(tmp_path, "s.arrow", stream[:-8]) == [*whole, Broken("s.arrow:300", "truncated")]
    short = read(tmp_path, "s.arrow", stream[:-300])
    assert short[:-1] == whole[: len(short) - 1]
    assert broken_of(short)[0].reason in {"truncated", "damaged"}
    assert read(tmp_path, "f.feather", arrow_file()[:-10]) == [Broken("f.feather", "damaged")]
    assert read(tmp_path, "e.arrow", b"") == [Broken("e.arrow", "damaged")]


def test_values_of_a_table_that_are_no_text_are_named(tmp_path):
    import pyarrow
    from pyarrow import parquet

    invalid = pyarrow.array([b"\xff", b"ok", b"a\0", None, b"x" * 30])
    for name, array in (("string", invalid.view(pyarrow.string())), ("binary", invalid)):
        parquet.write_table(pyarrow.table({"text": array}), tmp_path / f"{name}.parquet")
        found = read_all(files_source(tmp_path / f"{name}.parquet", max_document_bytes=20))
        reasons = [item.reason if isinstance(item, Broken) else item.text for item in found]
        assert reasons == ["not_utf8", "ok", "nul_bytes", "no_text_field", "too_long"]
    numbers = parquet_table([{"text": 1}])
    assert read(tmp_path, "n.parquet", numbers) == [Broken("n.parquet:0", "no_text_field")]


def test_csv_keeps_line_ends_in_quotes_and_names_bad_rows(tmp_path):
    content = (
        b'\xef\xbb\xbfid,text\r\n1,"two\nlines, ""quoted"""\r\n2\r\n\r\n3,"\xff"\n4,a\0b\n5,\n6,ok'
    )
    found = read(tmp_path, "t.csv", content)
    assert [item.text if isinstance(item, Document) else item for item in found] == [
        'two\nlines, "quoted"',
        Broken("t.csv:1", "no_text_field"),
        Broken("t.csv:2", "not_utf8"),
        Broken("t.csv:3", "nul_bytes"),
        "",
        "ok",
    ]
    long = b"x" * 200_000  # over the limit that Python's csv has by itself
    assert read(tmp_path, "t.csv", b"text\n" + long)[0].text == long.decode()
    open_quote = csv_table() + b'7,"never closed' + b"\nx" * 5000
    found = read(tmp_path, "t.csv", open_quote, max_document_bytes=2000)
    assert len(found) > 250
    assert broken_of(found) == [found[-1]]
    assert found[-1].reason == "damaged"


def test_a_csv_row_that_cannot_be_parsed_keeps_its_number(tmp_path):
    found = read(tmp_path, "t.csv", b"text\nfirst\na\rb\n\nthird\n")
    assert broken_of(found) == [Broken("t.csv:1", "damaged")]
    assert [item.path.rpartition(":")[2] for item in found] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.arrow", "a.feather"])
@pytest.mark.parametrize("setting", ["text_field", "label_field"])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path, name, setting):
    content = {
        "a.parquet": parquet_table, "a.csv": csv_table, "a.arrow": arrow_file,
        "a.feather": arrow_file,
    }[name]()  # fmt: skip
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"'body', while {tmp_path}/{name} has label, text"):
        read_all(files_source(tmp_path / name, **{setting: "body"}))


def test_parquet_within_gzip_is_refused(tmp_path):
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(parquet_table()))
    with pytest.raises(DataError, match="parquet within gzip"):
        read_all(files_source(tmp_path / "a.parquet.gz"))


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.parquet", "x.jsonl.gz"])
def test_a_file_that_changed_since_it_was_listed_is_refused(tmp_path, name):
    file = tmp_path / name
    content = {"x.parquet": parquet_table(), "x.jsonl.gz": gzip.compress(json_lines())}
    file.write_bytes(content.get(name, json_lines()))
    reader = open_source(files_source(file), 1000)
    listed = reader.files()
    parts = reader.ranges(listed)
    whole = file.read_bytes()
    os.utime(file, ns=(1, 1))
    with pytest.raises(DataError, match="bytes of version 1; expected"):
        list(reader.read(parts[0]))
    os.utime(file, ns=(1, int(listed[0].version)))
    assert list(reader.read(parts[0]))
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=f"found {len(whole) - 1} bytes") as caught:
        list(open_source(files_source(file), 1000).read(parts[-1]))
    assert caught.value.where == str(file)
    if len(parts) > 1:
        with pytest.raises(DataError, match="that were listed"):
            reader.ranges(listed)
    file.unlink()
    with pytest.raises(DataError, match="no such file"):
        list(reader.read(parts[0]))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(json_lines())
    reader = open_source(files_source(file))
    [part] = reader.ranges(reader.files())
    documents = reader.read(part)
    next(documents)
    with file.open("ab") as end:
        end.write(b'{"text": "more"}\n')
    with pytest.raises(DataError, match="that were listed"):
        list(documents)
