"""What a source is made of is known to the room that opens it; others ask what they need."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "launcher").rglob("*.py"), *(ROOT / "distrain").rglob("*.py")])
OPENING = ("distrain/data/opened/", "distrain/data/remote/", "distrain/config/token_sources.py")
"""Where sources are opened, where those at a URL are, and where the recipe's words are defined."""
FORMS = {
    "Split",
    "RemoteSplit",
    "RemoteShard",
    "MappedShard",
    "ForeignShard",
    "ForeignTokens",
    "PreparedTokens",
    "StreamRange",
    "DocumentRange",
    "OpenedSource",
    "OrderedStream",
    "DocumentStream",
    "OnTheFlyStream",
    "SourceTokens",
    "ShardedTokens",
    "PretrainDataset",
    "PackedDataset",
    "JoinedDataset",
    "ExampleDataset",
}
"""Classes of opened sources, of their shards and of the datasets over them."""
TELLS_APART = {"isinstance", "issubclass"}
FORMATS = {"distrain", "megatron", "datatrove", "npy"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def names_in(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} | {
        part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)
    }


def questions_of_form(tree: ast.AST) -> Iterator[str]:
    """Yield each place where code asks what a source is, and not for what it needs of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in TELLS_APART and names_in(node) & FORMS:
                yield f"line {node.lineno}: {ast.unparse(node)}"
            if node.func.id == "is_url":
                yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.match_case) and names_in(node.pattern) & FORMS:
            yield f"line {node.pattern.lineno}: case {ast.unparse(node.pattern)}"
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            literals = {
                part.value
                for side in sides
                for part in ast.walk(side)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
            is_format = any("format" in name for side in sides for name in names_in(side))
            if is_format and literals & FORMATS:
                yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_one_asks_what_a_source_is_made_of(path):
    if not name_of(path).startswith(OPENING):
        assert list(questions_of_form(tree_of(path))) == []


@pytest.mark.parametrize(
    "planted",
    [
        "if isinstance(stream, OnTheFlyStream): pass",
        "kind = isinstance(dataset, PretrainDataset | PackedDataset)",
        "found = isinstance(tokens, (int, reader.Split))",
        "x = issubclass(kind, Split)",
        "match source:\n    case DocumentStream(): pass",
        "if source.format == 'distrain': pass",
        "if token_format in ('npy', 'megatron'): pass",
        "if is_url(path): pass",
    ],
)
def test_a_planted_question_is_found(planted):
    assert len(list(questions_of_form(ast.parse(planted)))) == 1


def test_the_classes_named_here_are_those_that_exist():
    defined = {
        node.name
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    }
    assert defined >= FORMS


def test_the_loader_imports_nothing_of_a_form():
    tree = ast.parse((ROOT / "distrain/data/samples/loader.py").read_text())
    modules = {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
    }
    ours = {module for module in modules if module.startswith("distrain.data")}
    assert ours <= {
        f"distrain.data.samples.{name}" for name in ("datasets", "feed", "needed", "order", "rows")
    }
