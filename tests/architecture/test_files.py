"""Rules about files: their names, their sizes, and who knows the names in a run folder."""

import ast
import re
from pathlib import Path

import pytest

from distrain.runs.folder import STEP_PREFIX

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted(
    path for part in ("slurm", "launcher", "distrain") for path in (ROOT / part).rglob("*.j2")
)
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


def path_parts(tree: ast.AST) -> set[str]:
    """Return the literal names that are put behind a ``/``, and what comes before a number."""
    parts = [
        node.right
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    ]
    names = {node.value for node in parts if isinstance(node, ast.Constant)}
    for node in parts:
        if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            names.add(node.values[0].value)
    return {str(name) for name in names} | {STEP_PREFIX}


def names_spelled_in(template: str) -> set[str]:
    """Return the names of the run folder in what a template itself says, but for comments."""
    own = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|(?m:(^| )#(?!SBATCH).*$)", "", template)
    words = {part for part in PATH_PARTS if "." in part or part.endswith(("_", "-"))}
    return {word for word in words if word in own} | {
        part for part in PATH_PARTS if re.search(rf"/{re.escape(part)}\b", own)
    }


PATH_PARTS = path_parts(ast.parse(RUN_FOLDER.read_text()))


def test_the_names_of_folders_are_found_and_so_is_each_way_to_spell_them():
    assert {"checkpoints", "work", "control", "stop", "state.json", "slurm-", "step_"} <= PATH_PARTS
    script = """#SBATCH --output={{ state.json }}
    rm "$stage"/work/x.json  # control/stop
    for path in $checkpoints/step_*; do grep done "state.json"; touch /control/save; done
    """
    assert names_spelled_in(script) == {"work", "step_", "state.json", "control", "save"}


@pytest.mark.parametrize("path", TEMPLATES, ids=name_of)
def test_a_template_gets_the_names_of_the_run_folder(path):
    assert names_spelled_in(path.read_text()) == set()


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


def class_places(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Map the name of each public class to the files that define one of this name."""
    places: dict[str, list[str]] = {}
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    return places


def test_a_public_class_has_its_name_alone():
    places = class_places({name_of(path): ast.parse(path.read_text()) for path in SOURCES})
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
    planted = {"a.py": ast.parse("class Plan: ..."), "b.py": ast.parse("class Plan: ...")}
    assert class_places(planted) == {"Plan": ["a.py", "b.py"]}
