"""JSON as a format: an array, or values one after the other, each with its line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.config.chats import ChatFiles
from distrain.config.json_elements import JsonElementError, elements
from distrain.data.sources import open_rows
from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.row_request import RowRequest
from tests.distrain.data.sources.samples import (
    EXPECTED,
    ROWS,
    files_source,
    json_lines,
    read_all,
    texts_and_labels,
)

VALUES = st.lists(
    st.one_of(st.integers(), st.text(), st.dictionaries(st.text(), st.text(), max_size=3))
)


@settings(max_examples=40)
@given(VALUES, st.sampled_from([None, 1, "\t"]))
def test_elements_are_those_of_the_array_and_stand_in_their_lines(values, indent):
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    assert [value for _, value in elements(text)] == values
    by_line = "\n".join(json.dumps(value) for value in values) + "\n"
    assert list(elements(by_line)) == list(enumerate(values, start=1))


@pytest.mark.parametrize(
    ("text", "line", "is_end", "before"),
    [
        ('[\n{"a": 1},\n{"a": }\n]', 3, False, 1),
        ('[\n{"a": 1}\n{"a": 2}]', 3, False, 1),
        ('[\n{"a": 1},\n', 3, True, 1),
        ("[1] 2", 1, False, 1),
        ("{", 1, False, 0),
    ],
)
def test_the_first_place_that_is_no_json_is_named(text, line, is_end, before):
    reading = elements(text)
    for _ in range(before):
        next(reading)
    with pytest.raises(JsonElementError) as caught:
        next(reading)
    assert (caught.value.line, caught.value.is_end) == (line, is_end)


def rows_of(path, max_bytes=2**20):
    reader = open_rows(ChatFiles(kind="files", paths=(str(path),)))
    parts = reader.ranges(reader.files())
    return [row for part in parts for row in reader.rows(part, RowRequest(max_bytes))]


@pytest.mark.parametrize("content", [json.dumps(ROWS, indent=2).encode(), json_lines()])
def test_documents_are_read_from_json_where_the_recipe_says_so(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    source = files_source(tmp_path, format="json", label_field="label")
    assert texts_and_labels(read_all(source)) == EXPECTED
    # Without it the file is a text, as it always was.
    assert [found.text for found in read_all(files_source(tmp_path))] == [content.decode()]


def test_rows_before_damage_are_read_and_the_damage_named(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('[{"a": 1},\n{"a": 2},\n{"a": ')
    assert rows_of(file) == [
        SourceRow(f"{file}:1", {"a": 1}),
        SourceRow(f"{file}:2", {"a": 2}),
        Broken(f"{file}:3", "not_json"),
    ]
    assert rows_of(file, max_bytes=10) == [Broken(str(file), "too_long")]
    file.write_bytes(b'[{"a": 1}')
    assert rows_of(file)[-1] == Broken(f"{file}:1", "truncated")
    file.write_bytes(b"[\xff]")
    assert rows_of(file) == [Broken(str(file), "not_utf8")]
