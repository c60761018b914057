"""The tasks of ``lm_eval`` that a recipe names: are there such tasks."""

import difflib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from distrain.config.harness import HARNESS_MODULE, HarnessConfig
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import EvaluateStage, Recipe

NAME = re.compile(
    r"""^[ \t-]*["']?(?:task|group|tag)["']?:[ \t]*["']?([\w.+-]+)["']?[ \t]*(?:#.*)?$""",
    re.MULTILINE,
)
"""Of a task in its file; groups list others, which have files of their own."""


def check_harness(recipe: Recipe) -> Iterator[Finding]:
    """Look for each task in the files of the library, and in the user's own."""
    for name, stage in recipe.stages.items():
        if not isinstance(stage, EvaluateStage) or stage.harness is None:
            continue
        for number, task in enumerate(stage.harness.tasks):
            problem = task_problem(task, stage.harness)
            if problem:
                found, expected, remedy = problem
                message = f"harness.tasks: found {found}; expected {expected}; {remedy}"
                yield Finding(name, ("harness", "tasks", number), message)


def task_problem(task: str, config: HarnessConfig) -> tuple[str, str, str] | None:
    """Say why a task cannot be asked: what was found, what is expected, the remedy."""
    own = frozenset[str]()
    if config.include_path is not None:
        folder = Path(config.include_path).expanduser()
        if not folder.is_dir():
            return f"include_path {folder}, no folder", "one with task files (YAML)", "correct it"
        own = names_in(folder)
    library = library_folder()
    if task in own or library is None:  # what is not installed is told by the preflight
        return None
    known = own | names_in(library)
    if task in known or _is_mentioned(task, library):
        return None
    near = difflib.get_close_matches(task, known, n=3)
    remedy = f"did you mean {' or '.join(near)}?" if near else "list them: lm_eval ls tasks"
    return f"'{task}'", "a task or group that lm_eval knows, or one of include_path", remedy


def library_folder() -> Path | None:
    """Return where the library keeps its task files, without loading it."""
    spec = importlib.util.find_spec(HARNESS_MODULE)
    places = () if spec is None else spec.submodule_search_locations or ()
    return next((Path(place) / "tasks" for place in places), None)


def _is_mentioned(task: str, folder: Path) -> bool:
    """Whether a word stands in any task file: lists of tags, and code, are judged by the stage."""
    word = re.compile(rf"(?<![\w-]){re.escape(task)}(?![\w-])")
    files = (file for pattern in ("*.y*ml", "*.py") for file in folder.rglob(pattern))
    return any(word.search(file.read_text(encoding="utf-8", errors="replace")) for file in files)


@cache
def names_in(folder: Path) -> frozenset[str]:
    """Collect the names of all tasks and groups below a folder: thousands of small files."""
    found: set[str] = set()
    for file in folder.rglob("*.y*ml"):
        found.update(NAME.findall(file.read_text(encoding="utf-8", errors="replace")))
    return frozenset(found)
