"""Runs tasks of ``lm_eval``, and says what came out in plain numbers."""

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distrain.config.harness import HarnessConfig
from distrain.errors import RecipeError
from distrain.evaluation.harness.adapter import HarnessModel

SUFFIX = ",none"
"""Of the names of metrics that no filter was put before."""
BOOTSTRAP = 1000
"""Draws for the errors of metrics that have no formula for it, BLEU say."""


def run_tasks(
    model: HarnessModel, config: HarnessConfig, setting: str
) -> dict[str, dict[str, float]]:
    """Ask a model all questions of the tasks. Collective where the model is.

    Args:
        model: What is asked.
        config: Which tasks, and how.
        setting: Of ``config``, for messages.

    Returns:
        By task or group: each metric and, with ``_stderr`` after its name, its standard error.

    Raises:
        RecipeError: There is no such task.
    """
    import lm_eval

    # Progress bars and every request's text would drown what the stage says.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = find_tasks(config, setting)
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=list(config.tasks),
        num_fewshot=config.num_fewshot,
        limit=config.limit,
        bootstrap_iters=BOOTSTRAP,
        log_samples=False,
        apply_chat_template=config.chat_template,
        fewshot_as_multiturn=config.chat_template,
        task_manager=manager,
    )
    assert found is not None, "of the first rank, which each one is to the library"
    results: Mapping[str, Mapping[str, Any]] = found["results"]
    return {task: dict(_numbers(values)) for task, values in results.items()}


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
