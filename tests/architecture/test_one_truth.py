"""A truth is told once: who reads a run's records, and where a constant stands."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "launcher").rglob("*.py"), *(ROOT / "distrain").rglob("*.py")])
READER = "distrain/runs/json_lines.py"
RECORD_FILES = {"metrics", "events", "rejections"}
"""Attributes of ``RunFolder`` and ``StageFolder`` that are JSONL files."""
READS = {"open", "read_text", "read_bytes"}
OTHER_LINES = {
    "distrain/data/corpus/decontaminate.py": "benchmark texts of a user",
    "distrain/data/chats/pairs_file.py": "pairs, beside shards under their digests, or a user's",
    "distrain/data/shards/inputs.py": "input ranges, beside shards and under their digests",
    "distrain/data/sources/lines.py": "documents of a user",
    "distrain/data/corpus/encode.py": "cells of a table",
    "launcher/inputs/first_rows.py": "a user's files, of which the first lines are looked at",
    "launcher/commands/runtime_records.py": "what a process of the runtime prints",
}
"""Files that read JSON line by line, but none of a run's records; and what they read."""


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def loops_in(tree: ast.AST) -> Iterator[ast.AST]:
    loops = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    yield from (node for node in ast.walk(tree) if isinstance(node, loops))


def is_json_load(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("loads", "load", "JSONDecoder")
        and ast.unparse(node.func.value) == "json"
    )


def parses_lines(tree: ast.AST) -> list[int]:
    """Return where JSON is parsed piece by piece: in a loop, or from something called a line."""
    found = {
        node.lineno
        for loop in loops_in(tree)
        for node in ast.walk(loop)
        if isinstance(node, ast.Call) and is_json_load(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and is_json_load(node):
            names = {part.id for arg in node.args for part in ast.walk(arg)
                     if isinstance(part, ast.Name)}  # fmt: skip
            if any("line" in name for name in names):
                found.add(node.lineno)
    return sorted(found)


def opens_records(tree: ast.AST) -> list[int]:
    """Return where a file of records is opened by hand."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in READS
        and isinstance(node.func.value, ast.Attribute)
        and node.func.value.attr in RECORD_FILES
    ]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_one_file_reads_the_records_of_a_run(path):
    if name_of(path) == READER:
        return
    tree = tree_of(path)
    assert opens_records(tree) == []
    if name_of(path) not in OTHER_LINES:
        assert parses_lines(tree) == []


def test_every_exception_is_still_one():
    trees = {name: tree_of(ROOT / name) for name in OTHER_LINES}
    assert [name for name, tree in trees.items() if not parses_lines(tree)] == []


@pytest.mark.parametrize(
    "planted",
    [
        "for line in path.open(): records.append(json.loads(line))",
        "def read(line):\n    return json.loads(line)",
        "found = [json.loads(text) for text in data.splitlines()]",
        "while True:\n    record = json.loads(stream.readline())",
    ],
)
def test_a_planted_reader_of_lines_is_found(planted):
    assert parses_lines(ast.parse(planted))
    assert not parses_lines(ast.parse("value = json.loads(path.read_text())"))


def test_a_planted_opening_of_records_is_found():
    assert opens_records(ast.parse("with folder.metrics.open() as lines: pass"))
    assert opens_records(ast.parse("text = run.events.read_text()"))
    assert not opens_records(ast.parse("text = folder.result.read_text()"))


WRITER = "distrain/runs/durable.py"
OTHER_NAMERS = {
    "distrain/data/remote/cache/directory.py": "blocks under a lock that counts their bytes; "
    "not synced, as each is compared with its digest when it is read",
}
"""Files that give a written file its name by themselves, and why."""


def names_files(tree: ast.AST) -> list[int]:
    """Return where a file is synced or renamed by hand. Text is replaced with two arguments."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            node.func.attr in ("fsync", "fdatasync", "rename", "renames")
            or (node.func.attr == "replace" and len(node.args) == 1 and not node.keywords)
            or ast.unparse(node.func) == "os.replace"
        )
    ]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_one_file_makes_writes_durable(path):
    found = names_files(tree_of(path))
    if name_of(path) in OTHER_NAMERS:
        assert found
    elif name_of(path) != WRITER:
        assert found == []


@pytest.mark.parametrize(
    "planted",
    ["os.fsync(fd)", "temporary.replace(path)", "os.replace(a, b)", "folder.rename(target)"],
)
def test_a_planted_renaming_is_found(planted):
    assert names_files(ast.parse(planted))
    assert not names_files(ast.parse("text.replace('a', 'b'); replace(self, step=1)"))


TWICE = {
    "DIGEST_BYTES": "of a text (blake2b) and of a block (XXH3-128)",
    "DOCUMENTS_AT_ONCE": "each of the two sorts other things; one may change alone",
    "LEVEL": "of zstd: that of names is part of a shard's bytes, that of blocks is free",
    "MIN_WIDTH": "per cent of two charts that have nothing in common",
    "SHOWN": "items that a message lists; each message may list as many as it likes",
    "VERSION": "of two formats, ours and Megatron's",
}
"""Constants of one name and one value that are not one truth, and why."""


def constants_of(tree: ast.Module) -> dict[str, str]:
    """Map the constants of a module that are made of literals to what they are."""
    found = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            if not isinstance(target, ast.Name) or not target.id.lstrip("_").isupper():
                continue
            value = getattr(node, "value", None)
            if value is not None and not any(
                isinstance(part, ast.Call | ast.Name | ast.Attribute) for part in ast.walk(value)
            ):
                found[target.id.lstrip("_")] = ast.unparse(value)
    return found


def told_twice(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Map each name that has one value in several files to these."""
    places: dict[tuple[str, str], list[str]] = {}
    for file, tree in trees.items():
        for name, value in constants_of(tree).items():
            places.setdefault((name, value), []).append(file)
    return {name: files for (name, _), files in places.items() if len(files) > 1}


def test_a_constant_has_one_home():
    trees = {name_of(path): tree_of(path) for path in SOURCES}
    found = told_twice(trees)
    assert {name: files for name, files in found.items() if name not in TWICE} == {}
    assert TWICE.keys() <= found.keys(), "an exception that is none any more"


def test_a_planted_constant_is_found():
    trees = {"a.py": ast.parse("PAUSE_S = 3"), "b.py": ast.parse("_PAUSE_S: int = 3")}
    assert told_twice(trees) == {"PAUSE_S": ["a.py", "b.py"]}
    assert told_twice({"a.py": ast.parse("X = 1"), "b.py": ast.parse("X = 2")}) == {}
