"""Answers measured beside the base's: by the stage that trains them, and by ``evaluate``."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from distrain.config.tasks import TaskForm
from distrain.data.samples.examples import ExampleDataset
from distrain.data.samples.order import Ints
from distrain.evaluation.bootstrap import ExampleSums
from distrain.evaluation.comparison import AnswerSums, compare_answers
from distrain.evaluation.meter import Meter
from distrain.models.weights.source import WeightSource
from distrain.runs.conclusion import conclude
from distrain.stages.sft_samples import ExampleSamples
from distrain.tasks.task import Task

log = logging.getLogger(__name__)


def measure_answers(
    sum_examples: Callable[[ExampleDataset, Ints], ExampleSums],
    samples: ExampleSamples,
    chosen: Ints,
) -> AnswerSums:
    """Measure answers after their own prompts and after those of other examples.

    The loss after shuffled prompts shows how much of the gain comes from knowing what answers look
    like, and how much from reading the prompt.

    Args:
        sum_examples: Measures with the model as it is now.
        samples: The examples.
        chosen: Which of them, by the numbers of ``ExampleSamples.apart``.
    """
    own, shuffled = samples.apart()
    return AnswerSums(sum_examples(own, chosen), sum_examples(shuffled, chosen))


def tell(answers: Mapping[str, Any], form: TaskForm) -> None:
    """Log what follows from the figures."""
    found = conclude(answers, form.trained.short_unit)
    if found is not None:
        log.info("answers: %s", found)


def compare_by_meter(
    meter: Meter, samples: ExampleSamples, merged: WeightSource | None, task: Task, seed: int
) -> dict[str, Any]:
    """Measure answers with the model as it is, which is the base, then with ``merged`` weights.

    With ``None`` the model is the trained one, and its base is not measured.
    """
    measure = partial(
        measure_answers,
        partial(meter.sum_examples, task=task),
        samples,
        np.arange(len(samples)),
    )
    base, model = None, measure()
    if merged is not None:
        meter.load(merged)
        base, model = model, measure()
    answers = {
        "pairs": len(samples),
        "long_answers": samples.lengths.long_answers,
        "cut_prompts": samples.lengths.effects.get("cut_context", 0),
        **compare_answers(model, base, seed=seed),
    }
    tell(answers, task.form)
    return answers
