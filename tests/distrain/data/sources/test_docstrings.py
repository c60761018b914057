"""Examples of the standard library's documented functions."""

from distrain.config.chats import ChatDocstrings
from distrain.data.chats.reading import read_source
from distrain.data.sources.docstrings import DocstringsReader, documented_functions
from distrain.data.sources.document import SourceRow
from distrain.data.sources.row_request import RowRequest

REQUEST = RowRequest(2**20)


def rows_of(folder="json", **settings):
    source = ChatDocstrings(kind="python_docstrings", **settings)
    reader = DocstringsReader(source, 2**40)
    files = [file for file in reader.files() if f"/{folder}/" in file.url]
    found = [row for part in reader.ranges(files) for row in reader.rows(part, REQUEST)]
    assert all(isinstance(row, SourceRow) for row in found)
    return found


def test_rows_are_functions_and_their_docstrings():
    rows = rows_of(max_answer_characters=400)
    assert rows
    assert len({row.path for row in rows}) == len(rows)
    for row in rows:
        assert row.path.startswith("json/")
        assert set(row.fields) == {"prompt", "answer"}
        assert row.fields["answer"] not in row.fields["prompt"]
        assert row.fields["prompt"].startswith("Write the docstring")


def test_a_preference_has_another_docstring_of_the_module():
    rows = rows_of("email", preference=True)
    assert rows
    by_module: dict[str, set[str]] = {}
    for row in rows:
        by_module.setdefault(row.path.partition(":")[0], set()).add(row.fields["chosen"])
    for row in rows:
        assert row.fields["rejected"] != row.fields["chosen"]
        assert row.fields["rejected"] in by_module[row.path.partition(":")[0]]


def test_limits_hold():
    source = ChatDocstrings(kind="python_docstrings", min_answer_characters=5)
    text = 'def a():\n    """Hi."""\n\ndef b():\n    """Longer than that."""\n    return 1\n'
    assert [found.docstring for found in documented_functions(text, source)] == [
        "Longer than that."
    ]
    assert list(documented_functions("def a(:", source)) == []


def test_examples_say_where_they_are_from():
    source = ChatDocstrings(kind="python_docstrings")
    found = read_source(source)
    assert len(found.examples) > 100
    assert all(".py:" in example.path for example in found.examples)
