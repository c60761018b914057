"""Tasks of ``lm_eval`` that are asked at validations, by all ranks in step."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from distrain.config.harness import LoopHarnessConfig
from distrain.errors import RecipeError
from distrain.evaluation.harness.scoring import Scorer
from distrain.parallel.compilation import uncompiled
from distrain.parallel.engine import Engine
from distrain.runs.records import HARNESS

if TYPE_CHECKING:  # they import the library, which takes seconds
    from distrain.evaluation.harness.adapter import HarnessModel
    from distrain.evaluation.harness.tasks import OpenedTasks

SETTING = "eval.harness"


@dataclass(frozen=True)
class TaskAsker:
    """Asks the model that is trained.

    Args:
        engine: What wraps it.
        device: Where inputs go.
        model: That the library asks.
        tasks: With their questions.
        every: Validations from one time to the next.
        compiles: Whether the model's blocks are compiled.
    """

    engine: Engine
    device: torch.device
    model: "HarnessModel"
    tasks: "OpenedTasks"
    every: int
    compiles: bool

    def measure(self) -> dict[str, float]:
        """Ask all questions. Collective; the same on all ranks.

        Returns:
            Figures by the names of their fields, ``tasks/<task>/<metric>``.
        """
        with kept_random_states(self.device), uncompiled(self.compiles):
            found = self.tasks.ask(self.model, self.engine.ranks)
        return {
            f"{HARNESS}{task}/{metric}": value
            for task, figures in found.items()
            for metric, value in figures.items()
        }


def open_asker(
    config: LoopHarnessConfig,
    engine: Engine,
    device: torch.device,
    *,
    tokenizer: Path,
    positions: int,
    compiles: bool,
) -> TaskAsker:
    """Open tasks for a model that is about to be trained.

    Args:
        config: Which tasks.
        engine: What wraps the model.
        device: Where inputs go.
        tokenizer: Of the model, a file or its folder.
        positions: Of the model.
        compiles: Whether its blocks are compiled.

    Raises:
        RecipeError: There is no such task, or one asks for generated answers.
    """
    from distrain.evaluation.harness.adapter import HarnessModel
    from distrain.evaluation.harness.opening import read_tokenizer
    from distrain.evaluation.harness.tasks import OpenedTasks

    with kept_random_states(device):
        tasks = OpenedTasks.open(config, SETTING)
    if tasks.writing:
        raise RecipeError(
            f"{SETTING}.tasks",
            f"{', '.join(tasks.writing)}, which asks for generated answers",
            "tasks of log-likelihoods (multiple choice, perplexity) while training",
            "Name it in the harness section of an evaluate stage instead.",
        )
    scorer = Scorer(engine.model, device, positions, config.batch_tokens, engine.ranks)
    model = HarnessModel(scorer, read_tokenizer(tokenizer))
    return TaskAsker(engine, device, model, tasks, config.every, compiles)


@contextmanager
def kept_random_states(device: torch.device) -> Iterator[None]:
    """Give back the states of the global generators, which the library seeds each time."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
