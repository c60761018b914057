"""The tasks of ``lm_eval`` that a recipe names: are there such tasks."""

import difflib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from distrain.config.harness import HARNESS_MODULE, WRITING, HarnessConfig, LoopHarnessConfig
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import EvaluateStage, Recipe, TrainStage

NAME = re.compile(
    r"""^[ \t-]*["']?(?:task|group|tag)["']?:[ \t]*["']?([\w.+-]+)["']?[ \t]*(?:#.*)?$""",
    re.MULTILINE,
)
"""Of a task in its file; groups list others, which have files of their own."""
OUTPUT_TYPE = re.compile(r"""^output_type:[ \t]*["']?(\w+)""", re.MULTILINE)
INCLUDE = re.compile(r"""^include:[ \t]*["']?([^"'\s#]+)""", re.MULTILINE)
MOST_INCLUDES = 8
"""Of files in each other; the library's have three."""


def check_harness(recipe: Recipe) -> Iterator[Finding]:
    """Look for each task in the files of the library, and in the user's own."""
    for name, stage in recipe.stages.items():
        if isinstance(stage, EvaluateStage) and stage.harness is not None:
            yield from _check_tasks(name, ("harness",), stage.harness)
        if isinstance(stage, TrainStage) and stage.eval.harness is not None:
            yield from _check_tasks(name, ("eval", "harness"), stage.eval.harness)


def _check_tasks(stage: str, path: tuple[str, ...], config: HarnessConfig) -> Iterator[Finding]:
    setting = ".".join(path)
    for number, task in enumerate(config.tasks):
        problem = task_problem(task, config)
        if not problem and isinstance(config, LoopHarnessConfig):
            problem = writing_problem(task, config)
        if problem:
            found, expected, remedy = problem
            message = f"{setting}.tasks: found {found}; expected {expected}; {remedy}"
            yield Finding(stage, (*path, "tasks", number), message)


def writing_problem(task: str, config: HarnessConfig) -> tuple[str, str, str] | None:
    """Say that a task asks for generated answers, where its file does; of groups the stage does."""
    folders = [Path(config.include_path).expanduser()] if config.include_path is not None else []
    folders += [folder for folder in (library_folder(),) if folder is not None]
    file = next((found for each in folders if (found := files_in(each).get(task))), None)
    if file is None or output_type_of(file) != WRITING:
        return None
    return (
        f"'{task}', which asks for generated answers",
        "tasks of log-likelihoods (multiple choice, perplexity) while training",
        "name it in the harness section of an evaluate stage",
    )


def output_type_of(file: Path) -> str | None:
    """Return what a task's file says of its requests, or those that it includes; ``None``: none."""
    for _ in range(MOST_INCLUDES):
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if said := OUTPUT_TYPE.search(text):
            return said[1]
        included = INCLUDE.search(text)
        if included is None:
            return None
        file = file.parent / included[1]
    return None


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


def names_in(folder: Path) -> frozenset[str]:
    """Collect the names of all tasks and groups below a folder."""
    return frozenset(files_in(folder))


@cache
def files_in(folder: Path) -> dict[str, Path]:
    """Collect the names of all tasks and groups below a folder: thousands of small files.

    With the file of each; of a tag, which stands in several, one of them.
    """
    found: dict[str, Path] = {}
    for file in folder.rglob("*.y*ml"):
        for name in NAME.findall(file.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(name, file)
    return found
