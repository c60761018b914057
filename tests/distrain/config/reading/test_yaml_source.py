import pytest

from distrain.config.reading.problems import ProblemList
from distrain.config.reading.yaml_source import (
    MAX_DEPTH,
    MAX_NODES,
    parse_tree,
    parse_value,
    plain,
)


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


def bomb(levels, width):
    """Lists of aliases of lists of aliases: a few lines that stand for width**levels values."""
    lines = ["l0: &l0 [x]"]
    lines += [
        f"l{level + 1}: &l{level + 1} [{', '.join([f'*l{level}'] * width)}]"
        for level in range(levels)
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (bomb(levels=9, width=10), "7:1", f"more than {MAX_NODES:,} values"),
        (bomb(levels=40, width=2), "20:1", f"more than {MAX_NODES:,} values"),
        (bomb(levels=9, width=10) + "\nm: {<<: [*l9, *l9]}", "7:1", "each alias counted"),
        (bomb(levels=60, width=1), f"{MAX_DEPTH + 1}:1", f"more than {MAX_DEPTH} lists"),
        ("a: " + "[" * 60 + "]" * 60, f"1:{4 + MAX_DEPTH}", f"more than {MAX_DEPTH} lists"),
        ("a: " + "[" * 600, f"1:{4 + MAX_DEPTH}", f"more than {MAX_DEPTH} lists"),
        ("a: " + "{b: " * 60 + "1" + "}" * 60, f"1:{4 * MAX_DEPTH + 1}", "write it flatter"),
    ],
)
def test_what_holds_too_much_is_shown_where_it_does(text, place, words):
    tree, problems = read(text)
    assert tree is None
    assert len(problems) == 1
    assert problems[0][0] == f"f.yaml:{place}"
    assert words in problems[0][1]


def test_a_million_values_and_many_levels_are_read():
    tree, problems = read(bomb(levels=5, width=15))  # l5 alone: 15**5 lists of one
    assert problems == []
    assert tree.mapping["l5"].value[0].value is tree.mapping["l4"].value
    assert read("[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH)[1] == []


def test_an_alias_makes_no_copy_of_what_it_stands_for():
    """So that the cost of reading follows the length of the text, as in ruamel itself."""
    tree, _ = read("a: &x [1, [2, 3]]\nb: *x\n")
    a, b = tree.mapping["a"], tree.mapping["b"]
    assert b.value is a.value
    assert (a.key.line, b.key.line) == (1, 2)
    assert b.place == a.place


def test_a_mistake_in_one_file_does_not_make_the_next_one_deeper():
    for _ in range(2 * MAX_DEPTH):
        read("a: [")
    assert read("a: [[1]]")[1] == []
