import pytest

from distrain.config.reading.problems import ProblemList
from distrain.config.reading.yaml_source import parse_tree, parse_value, plain


def read(text):
    problems = ProblemList()
    tree = parse_tree(text, "f.yaml", problems)
    return tree, [(str(problem.place), problem.message) for problem in problems]


def value(text, place, problems):
    tree = parse_value(text, place, problems)
    assert tree is not None
    return plain(tree)


def test_yaml_1_2_reads_numbers_and_leaves_words_alone():
    tree, problems = read("[6e-4, 1e5, yes, no, on, 1_000, 0o17, 2024-01-01, '5', null, .5, true]")
    assert problems == []
    assert plain(tree) == (
        6e-4, 1e5, "yes", "no", "on", 1000, 15, "2024-01-01", "5", None, 0.5, True,
    )  # fmt: skip


def test_anchors_and_merge_keys_keep_their_values_and_places():
    tree, problems = read("a: &x {k: 1, l: 2}\nb: *x\nc: {<<: *x, l: 3}\nd: {<<: [{k: 9}, *x]}\n")
    assert problems == []
    assert plain(tree) == {
        "a": {"k": 1, "l": 2},
        "b": {"k": 1, "l": 2},
        "c": {"k": 1, "l": 3},
        "d": {"k": 9, "l": 2},
    }
    assert tree.mapping["c"].mapping["k"].place.line == 1
    assert tree.mapping["c"].mapping["l"].place.line == 3


def test_an_empty_value_is_shown_at_its_key():
    tree, _ = read("a:\nb: 1\n")
    assert str(tree.mapping["a"].place) == "f.yaml:1:1"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: [1, 2\nb: 3\n", "2:2", "not YAML: expected ',' or ']'"),
        ("a: 'x\n", "1:4", "quoted scalar"),
        ("a:\n\t- 1\n", "2:1", "indent with spaces, not tabs"),
        ("a: 1\n b: 2\n", "2:3", "check the indentation"),
        ("a: *b\n", "1:4", "undefined alias"),
        ("a: @b\n", "1:4", "quote the value"),
        ("--- 1\n--- 2\n", "2:1", "a recipe is one document"),
        ("a: 1\nb: x\x07y\n", "2:5", "control character"),
        ("a: !!int x\n", "1:4", "'x' is not a valid int"),
        ("a: !new {b: 1}\n", "1:4", "the tag '!new' is unknown"),
        ("[1, 2]: 3\n", "1:1", "a key must be a plain word"),
        ("a: {b: 1, b: 2}\n", "1:11", "'b' is given twice, first in line 1"),
        ("a: {<<: 1}\n", "1:5", "'<<' merges mappings"),
        ("a: &x [*x]\n", "1:4", "an alias inside the value"),
        ("", "1:1", "the file is empty"),
        ("# nothing\n", "1:1", "the file is empty"),
    ],
)
def test_what_is_not_plain_yaml_is_shown_at_its_place(text, place, words):
    _, problems = read(text)
    assert len(problems) == 1
    assert problems[0][0] == f"f.yaml:{place}"
    assert words in problems[0][1]


def test_a_value_that_yaml_cannot_read_is_text():
    problems = ProblemList()
    place = read("a")[0].place
    assert [value(text, place, problems) for text in ("*.txt", "[1, a]", "'5'")] == [
        "*.txt",
        (1, "a"),
        "5",
    ]
    assert len(problems) == 0
