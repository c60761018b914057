"""The import rules of docs/architecture.md, read from every file."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = (
    {"errors", "garbage"},
    {"runs"},
    {"fault"},
    {"config"},
    {"monitor"},
    {"loss", "dtensor"},
    {"data", "models", "optim"},
    {"tasks"},
    {"parallel"},
    {"checkpoint"},
    {"evaluation"},
    {"finetune"},
    {"train"},
    {"stages"},
    {"tools"},
    {"__main__", "agent"},
    {"fork_server"},
)
RANK = {name: number for number, layer in enumerate(LAYERS) for name in layer}

LIGHT = (
    "launcher",
    "distrain/config",
    "distrain/runs",
    "distrain/errors.py",
    "distrain/__init__.py",
)
LIGHT_THIRD_PARTY = {"pydantic", "pydantic_core", "ruamel", "typer", "rich", "jinja2"}
"""The dependencies of the base install; nothing else may be imported where there is no torch."""
SLOW = {"peft", "transformers", "deepspeed", "datasets", "accelerate", "wandb", "rich"}
"""Takes a second or more to import (rich: a tenth, but ``--help`` needs none of it)."""


def files_of(*parts: str) -> list[Path]:
    found: list[Path] = []
    for part in parts:
        path = ROOT / part
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Yield every imported module, with names that may be modules of a package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "distrain":
                yield from ((node, f"distrain.{alias.name}") for alias in node.names)
            else:
                yield node, node.module


ROOMS = {
    "distrain/data": (
        {"sources", "workers"},
        {"curate", "tokenizer"},
        {"shards"},
        {"chats", "remote"},
        {"corpus", "adapters"},
        {"samples"},
        {"opened"},
    ),
    "distrain/config": (
        {"added_tokens", "json_elements", "packages", "turns"},
        {"row_contents"},
        {"attention", "section", "input_files", "rows", "pretrained"},
        {"tasks"},
        {
            *(
                "best",
                "curation",
                "dedup",
                "forms",
                "harness",
                "labels",
                "launch",
                "loading",
                "lora",
                "samples",
                "spikes",
            ),
            "token_sources",
        },
        {"models", "optimizers", "schedules", "sources", "training"},
        {"data", "huggingface", "pipeline", "preference"},
        {"chats"},
        {"recipe"},
        {"layout", "lineage"},
        {"axes"},
        {"reading"},
    ),
    "launcher": (
        {"text", "environment", "resources", "rank_part", "runtime_questions", "base_tokenizers"},
        {"memory", "model_counts", "holdings"},
        {"watch", "report", "run_changes", "pinned_dates", "pinned_families", "gpus"},
        {"run_files"},
        {"estimate", "plan"},
        {"preflight", "inputs"},
        {"backends"},
        {"planning"},
        {"proving"},
        {"commands"},
        {"__main__"},
    ),
}
"""Rooms inside a package, from the lowest up; those in one set ignore each other."""


def rooms_above(source: str, package: str, room: str) -> list[str]:
    """Return the imports of a file in ``package/room`` that do not point to a lower room."""
    rank = {name: number for number, layer in enumerate(ROOMS[package]) for name in layer}
    prefix = [*package.split("/")]
    wrong = []
    for node, module in imports_of(ast.parse(source)):
        names = [module]
        if isinstance(node, ast.ImportFrom) and module.split(".") == prefix:
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[: len(prefix)] != prefix or len(parts) == len(prefix):
                continue
            other = parts[len(prefix)]
            if other in rank and other != room and rank[other] >= rank[room]:
                wrong.append(name)
    return wrong


def room_of(path: Path, package: str) -> str:
    return path.relative_to(ROOT / package).parts[0].removesuffix(".py")


ROOM_FILES = [(path, package) for package in ROOMS for path in files_of(package)]


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_has_a_place_in_the_order(package):
    rooms = {room_of(path, package) for path in files_of(package)} - {"__init__"}
    named = [name for layer in ROOMS[package] for name in layer]
    assert sorted(named) == sorted(rooms)


@pytest.mark.parametrize(
    ("path", "package"), ROOM_FILES, ids=lambda value: str(value).removeprefix(f"{ROOT}/")
)
def test_imports_between_rooms_point_down(path, package):
    room = room_of(path, package)
    if room != "__init__":
        assert rooms_above(path.read_text(), package, room) == []


@pytest.mark.parametrize(
    ("source", "package", "room", "wrong"),
    [
        ("from distrain.data.samples.order import x", "distrain/data", "chats", 1),
        ("from distrain.data import samples", "distrain/data", "shards", 1),
        ("def f():\n    from launcher.commands import cli", "launcher", "report", 1),
        ("import launcher.report.page", "launcher", "watch", 1),
        ("from distrain.config.reading.load import x", "distrain/config", "recipe", 1),
        ("from distrain.data.samples import order", "distrain/data", "samples", 0),
        ("from distrain.data.shards.manifest import x", "distrain/data", "samples", 0),
    ],
)
def test_a_planted_import_of_a_higher_room_is_found(source, package, room, wrong):
    assert len(rooms_above(source, package, room)) == wrong


def upward_imports(source: str, package: str) -> list[str]:
    """Return the imports of a file of ``distrain.<package>`` that do not point down."""
    wrong = []
    for _, module in imports_of(ast.parse(source)):
        parts = module.split(".")
        if parts[0] == "launcher":
            wrong.append(module)
        if parts[0] != "distrain" or parts[1] not in RANK or parts[1] == package:
            continue
        if RANK[parts[1]] >= RANK[package]:
            wrong.append(module)
    return wrong


def top_level_imports(tree: ast.Module) -> Iterator[str]:
    """Yield what importing the file imports; not what functions and type checkers do."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (module for _, module in imports_of(node))
        pending += ast.iter_child_nodes(node)


def package_of(path: Path) -> str:
    return path.relative_to(ROOT / "distrain").parts[0].removesuffix(".py")


def test_every_package_of_the_runtime_has_a_place_in_the_order():
    packages = {package_of(path) for path in files_of("distrain")} - {"__init__"}
    assert packages <= RANK.keys()


@pytest.mark.parametrize("path", files_of("distrain"), ids=name_of)
def test_imports_point_down(path):
    if package_of(path) == "__init__":
        assert not list(imports_of(ast.parse(path.read_text())))
        return
    assert upward_imports(path.read_text(), package_of(path)) == []


@pytest.mark.parametrize(
    ("source", "package", "wrong"),
    [
        ("from distrain.train import loop", "data", ["distrain.train"]),
        ("import distrain.models.llama", "data", ["distrain.models.llama"]),
        ("def f():\n    from distrain import stages", "train", ["distrain.stages"]),
        ("from launcher.plan import Plan", "config", ["launcher.plan"]),
        ("from distrain.data.samples.order import x", "data", []),
        ("from distrain.errors import DistrainError", "data", []),
    ],
)
def test_a_planted_upward_import_is_found(source, package, wrong):
    assert upward_imports(source, package) == wrong


@pytest.mark.parametrize("path", files_of("launcher"), ids=name_of)
def test_the_launcher_knows_only_errors_runs_and_config(path):
    ours = {
        ".".join(module.split(".")[:2])
        for _, module in imports_of(ast.parse(path.read_text()))
        if module.split(".")[0] == "distrain"
    }
    assert ours <= {
        "distrain.errors",
        "distrain.runs",
        "distrain.config",
        "distrain.__version__",
    }


@pytest.mark.parametrize("path", files_of(*LIGHT), ids=name_of)
def test_the_launcher_needs_only_the_base_install(path):
    roots = {module.split(".")[0] for _, module in imports_of(ast.parse(path.read_text()))}
    foreign = roots - set(sys.stdlib_module_names) - {"distrain", "launcher"}
    assert foreign <= LIGHT_THIRD_PARTY


@pytest.mark.parametrize("path", files_of("launcher", "distrain"), ids=name_of)
def test_slow_packages_are_imported_inside_the_function_that_needs_them(path):
    roots = {module.split(".")[0] for module in top_level_imports(ast.parse(path.read_text()))}
    assert not roots & SLOW


def test_only_what_runs_on_import_counts_as_imported_there():
    source = """
import os
try:
    import peft
except ImportError:
    from wandb import sdk
if TYPE_CHECKING:
    import deepspeed
def f():
    import datasets
class C:
    import accelerate
"""
    found = {module.split(".")[0] for module in top_level_imports(ast.parse(source))}
    assert found == {"os", "peft", "wandb", "accelerate"}


@pytest.mark.parametrize("path", files_of("launcher", "distrain", "tests"), ids=name_of)
def test_imports_are_absolute(path):
    relative = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


@pytest.mark.parametrize(
    "module",
    [
        "launcher.commands.cli",
        "launcher.commands.actions",
        "launcher.backends.local",
        "distrain.config.reading.load",
        "distrain.runs.records",
    ],
)
def test_importing_the_launcher_imports_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_imports_neither_rich_nor_pydantic_nor_yaml():
    code = (
        "import sys\nfrom launcher.commands.cli import main\nmain(['--help'])\n"
        "sys.exit(bool({'rich', 'pydantic', 'ruamel.yaml', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, stdout=subprocess.DEVNULL
    )
    assert done.returncode == 0
