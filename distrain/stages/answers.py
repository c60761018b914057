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
from distrain.runs.conclusion import ALONE, conclude
from distrain.stages.beside import Beside
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
    meter: Meter,
    samples: ExampleSamples,
    weights: WeightSource,
    beside: Beside,
    task: Task,
    seed: int,
) -> dict[str, Any]:
    """Measure answers with the model beside, if there is one, and then with ``weights``.

    One after the other: two models are never in memory at a time.
    """

    def measure(loaded: Meter) -> AnswerSums:
        each = partial(loaded.sum_examples, task=task)
        return measure_answers(each, samples, np.arange(len(samples)))

    base = None if beside.weights is None else measure(beside.load(meter))
    meter.load(weights)
    model = measure(meter)
    alone = {} if beside.reason is None else {ALONE: beside.reason}
    answers = {
        "pairs": len(samples),
        "long_answers": samples.lengths.long_answers,
        "cut_prompts": samples.lengths.effects.get("cut_context", 0),
        **compare_answers(model, base, seed=seed),
        **alone,
    }
    tell(answers, task.form)
    return answers
