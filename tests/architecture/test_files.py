"""Rules about files: their names, their sizes, and who knows the names in a run folder."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "launcher").rglob("*.py"), *(ROOT / "distrain").rglob("*.py")])
RUN_FOLDER = ROOT / "distrain" / "runs" / "folder.py"
VAGUE_NAMES = {"utils", "util", "helpers", "common", "misc"}
MAX_LINES = 400
MAX_FUNCTION_LINES = 60


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def file_names(tree: ast.AST) -> set[str]:
    """Return the string literals that are names of files with an ending."""
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"[a-z_]+\.(json|jsonl|yaml|lock|html)", node.value)
    }


OWNED = file_names(ast.parse(RUN_FOLDER.read_text())) - {"tokenizer.json"}
"""Names that only ``run_folder`` knows; ``tokenizer.json`` is also Hugging Face's own name."""


def test_the_names_of_the_run_folder_are_found():
    assert {"state.json", "metrics.jsonl", "events.jsonl", "run.lock"} <= OWNED


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_run_folder_knows_the_file_names_of_a_run(path):
    if path != RUN_FOLDER:
        assert not file_names(ast.parse(path.read_text())) & OWNED


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_is_named_for_what_it_does(path):
    assert path.stem not in VAGUE_NAMES


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_function_fits_on_a_screen(path):
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []
