"""Answers measured beside the base's: by the stage that trains them, and by ``evaluate``."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from distrain.config.tasks import TaskForm
from distrain.data.samples.examples import ExampleDataset
from distrain.data.samples.order import Ints
from distrain.evaluation.bootstrap import ExampleSums
from distrain.evaluation.comparison import AnswerSums
from distrain.runs.conclusion import conclude
from distrain.stages.sft_samples import ExampleSamples

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
