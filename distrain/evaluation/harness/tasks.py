"""Runs tasks of ``lm_eval``, and says what came out in plain numbers."""

import difflib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from distrain.config.harness import WRITING, HarnessConfig
from distrain.errors import RecipeError
from distrain.evaluation.harness.adapter import HarnessModel
from distrain.parallel.ranks import Ranks

SUFFIX = ",none"
"""Of the names of metrics that no filter was put before."""
ASKS_PROGRAMS = ("get_git_commit_hash", "add_env_info")
"""Functions of ``lm_eval.evaluator`` that fill in its record."""
BOOTSTRAP = 1000
"""Draws for the errors of metrics that have no formula for it, BLEU say."""


def run_tasks(
    model: HarnessModel, config: HarnessConfig, setting: str
) -> dict[str, dict[str, float]]:
    """Ask a model all questions of the tasks; see ``OpenedTasks``.

    Raises:
        RecipeError: There is no such task.
    """
    return OpenedTasks.open(config, setting).ask(model)


@dataclass(frozen=True)
class OpenedTasks:
    """Tasks with their questions in memory: asked again, nothing is read or downloaded.

    Args:
        config: Which tasks, and how.
        manager: The library's list of tasks.
        loaded: What it made of those asked for.
    """

    config: HarnessConfig
    manager: Any
    loaded: Mapping[str, Any]

    @classmethod
    def open(cls, config: HarnessConfig, setting: str) -> Self:
        """Find the tasks and read their questions, from a network where they are not local.

        Args:
            config: Which tasks.
            setting: Of ``config``, for messages.

        Raises:
            RecipeError: There is no such task.
        """
        # Progress bars and every request's text would drown what the stage says.
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        with quietly():
            manager = find_tasks(config, setting)
            return cls(config, manager, manager.load(list(config.tasks)))

    @property
    def writing(self) -> list[str]:
        """Names of the tasks that ask for generated answers."""
        tasks: Mapping[str, Any] = self.loaded["tasks"]
        return sorted(name for name, task in tasks.items() if task.OUTPUT_TYPE == WRITING)

    def load(self, names: object) -> Mapping[str, Any]:
        """Return what is loaded: the one thing that the library asks of a list of tasks."""
        del names
        return self.loaded

    def __getattr__(self, name: str) -> object:
        return getattr(self.manager, name)  # what it asks to write its own log

    def ask(self, model: HarnessModel, ranks: Ranks | None = None) -> dict[str, dict[str, float]]:
        """Ask a model all questions. Collective where the model is.

        Args:
            model: What is asked.
            ranks: That ask together: all get what the first one found.

        Returns:
            By task or group: each metric and, with ``_stderr`` after its name, its standard error.
        """
        import lm_eval

        with quietly():
            found = lm_eval.simple_evaluate(
                model=model,
                tasks=list(self.config.tasks),
                num_fewshot=self.config.num_fewshot,
                limit=self.config.limit,
                bootstrap_iters=BOOTSTRAP,
                log_samples=False,
                apply_chat_template=self.config.chat_template,
                fewshot_as_multiturn=self.config.chat_template,
                task_manager=self,
            )
        # The library gives nothing to ranks that are not the first of their machine.
        results: Mapping[str, Mapping[str, Any]] = {} if found is None else found["results"]
        figures = {task: dict(_numbers(values)) for task, values in results.items()}
        if ranks is None:
            return figures
        shared: Any = ranks.host.gather(figures)[0]
        return dict(shared)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the library's own output off the screen: its bars, and what it prints.

    It would also ask git for a commit and a dozen programs about the machine, for a record that
    nobody reads here; git complains on the screen, past Python, where there is no repository.
    """
    from lm_eval import evaluator

    asked = {name: getattr(evaluator, name, None) for name in ASKS_PROGRAMS}
    # Logs are not touched: their handlers hold the stream as it was.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # noqa: PTH123
        try:
            for name in asked:
                setattr(evaluator, name, lambda *_: None)
            yield
        finally:
            for name, function in asked.items():
                setattr(evaluator, name, function)


def find_tasks(config: HarnessConfig, setting: str) -> Any:  # noqa: ANN401  (the library's own)
    """Open the library's list of tasks; its own ones only where the user's folder has not all.

    Raises:
        RecipeError: A task is in neither.
    """
    from lm_eval.tasks import TaskManager

    folder = None if config.include_path is None else str(Path(config.include_path).expanduser())
    if folder is not None:
        own = TaskManager(include_path=folder, include_defaults=False)
        if set(config.tasks) <= set(own.all_tasks):
            return own
    manager = TaskManager(include_path=folder)
    for name in config.tasks:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            remedy = f"Write {' or '.join(near)}" if near else "List them: lm_eval ls tasks"
            raise RecipeError(
                f"{setting}.tasks",
                f"'{name}'",
                "a task or group that lm_eval knows, or one of a file in include_path",
                f"{remedy}.",
            )
    return manager


def _numbers(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Keep what was measured; ``acc_stderr`` stands beside ``acc``, both without their filter."""
    return [
        (name.removesuffix(SUFFIX), float(value))
        for name, value in values.items()
        if "," in name and isinstance(value, int | float)
    ]
