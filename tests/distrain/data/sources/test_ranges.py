import io
from itertools import pairwise
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distrain.data.sources import lines, open_source
from distrain.data.sources.document import Document
from distrain.data.sources.lines import cut_lines, read_lines
from distrain.data.sources.ranges import InputFile, InputRange, group_files, whole_ranges
from tests.distrain.data.sources.samples import (
    EXPECTED,
    every_format,
    files_source,
    read_all,
    read_parts,
    texts_and_labels,
)

BYTES_WITH_ENDS = st.lists(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"a", "ü".encode(), "\u2028".encode(), b"\0", b" bc "])
).map(b"".join)


@given(BYTES_WITH_ENDS, st.integers(1, 40), st.integers(1, 20))
@example(b"\n", 1, 1)
@example(b"no end", 3, 2)
def test_cuts_lie_between_lines_and_lose_nothing(content, range_bytes, block_bytes):
    with mock.patch.object(lines, "BLOCK_BYTES", block_bytes):
        cuts = list(cut_lines(io.BytesIO(content), range_bytes))
    assert cuts == list(cut_lines(io.BytesIO(content), range_bytes))  # however it is read
    assert b"".join(content[start:stop] for start, stop, _ in cuts) == content
    for start, stop, first_line in cuts:
        assert first_line == content[:start].count(b"\n")
        assert content[stop - 1 : stop] == b"\n" or stop == len(content)
    for start, stop, _ in cuts[:-1]:
        assert stop - start >= range_bytes
        assert b"\n" not in content[start + range_bytes - 1 : stop - 1]


@given(BYTES_WITH_ENDS, st.integers(1, 40))
def test_ranges_of_lines_hold_the_lines_of_the_file_with_their_numbers(content, range_bytes):
    import fsspec

    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/ranges/lines", content)
    source = files_source("memory://ranges/lines", format="lines")
    parts, found = read_parts(source, range_bytes)
    assert [item for part in found for item in part] == read_all(source)
    assert [part.first_row for part in parts] == [
        content[: part.start].count(b"\n") for part in parts
    ]
    ends = content.split(b"\n")
    for item in (item for part in found for item in part):
        number = int(item.path.rpartition(":")[2])
        if isinstance(item, Document):
            assert item.text == ends[number - 1].removesuffix(b"\r").decode()


@given(BYTES_WITH_ENDS, st.integers(1, 8))
def test_lines_over_the_limit_are_named_in_their_place(content, limit):
    with mock.patch.object(lines, "BLOCK_BYTES", 3):
        found = list(read_lines(io.BytesIO(content), limit))
    assert found == [
        line if len(line.removesuffix(b"\n")) <= limit else None for line in io.BytesIO(content)
    ]


@given(st.lists(st.integers(0, 100)), st.integers(1, 120))
def test_small_files_share_a_range_and_big_ones_have_their_own(sizes, range_bytes):
    files = [InputFile(f"{number:03d}", size, "") for number, size in enumerate(sizes)]
    parts = whole_ranges(files, range_bytes)
    assert [file for part in parts for file in part.files] == files
    for part in parts:
        assert len(part.files) == 1 or sum(file.size for file in part.files) <= range_bytes
    for part, after in pairwise(parts):
        first = after.files[0].size
        assert sum(file.size for file in part.files) + first > range_bytes
    big = [item for item in group_files(files, range_bytes) if isinstance(item, InputFile)]
    assert big == [file for file in files if file.size > range_bytes]


@pytest.mark.parametrize("name", every_format())
@pytest.mark.parametrize("range_bytes", [1, 1000, 2**26])
def test_the_ranges_together_are_the_file(tmp_path, name, range_bytes):
    (tmp_path / name).write_bytes(every_format()[name])
    source = files_source(tmp_path / name, label_field="label")
    parts, found = read_parts(source, range_bytes)
    assert texts_and_labels([item for part in found for item in part]) == EXPECTED
    first = 0 if any(mark in name for mark in ("parquet", "csv", "arrow", "feather")) else 1
    assert [item.path for part in found for item in part] == [
        f"{tmp_path}/{name}:{row}" for row in range(first, first + len(EXPECTED))
    ]
    has_parts = name in {"a.jsonl", "a.parquet"} and range_bytes < 10_000
    assert (len(parts) > 1) == has_parts


def test_ranges_are_read_in_any_order_with_the_same_result(tmp_path):
    for number, (name, content) in enumerate(every_format().items()):
        (tmp_path / f"{number}{name}").write_bytes(content)
    source = files_source(tmp_path)
    reader = open_source(source, 1000)
    parts = reader.ranges(reader.files())
    assert len(parts) > 10
    forwards = [list(reader.read(part)) for part in parts]
    backwards = [list(reader.read(part)) for part in reversed(parts)]
    assert backwards[::-1] == forwards
    # Cut from a list in the plan, not from what is there now.
    assert open_source(source, 1000).ranges(reader.files()) == parts
    assert open_source(source, 2000).ranges(reader.files()) != parts


def test_big_lines_are_cut_by_row_number_of_the_whole_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(every_format()["a.jsonl"])
    parts, found = read_parts(files_source(tmp_path / "a.jsonl"), 1000)
    assert parts[0].start == parts[0].first_row == 0
    for part, documents in zip(parts, found, strict=True):
        assert documents[0].path.endswith(f":{part.first_row + 1}")
    sizes = [part.stop - part.start for part in parts if part.stop is not None]
    assert len(sizes) == len(parts)
    assert sum(sizes) == parts[0].files[0].size


def test_a_range_survives_json():
    part = InputRange((InputFile("s3://b/k", 3, "v"), InputFile("x", 0, "")), 1, None, 7)
    assert InputRange.from_record(part.to_record()) == part
