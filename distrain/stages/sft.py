"""The ``sft`` stage: prompt-answer pairs, with the loss on the answer only.

It trains adapters (LoRA) or, without them, every parameter.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from distrain.config.recipe import SftStage
from distrain.evaluation.comparison import (
    BASE_OWN,
    BASE_SHUFFLED,
    SHUFFLED,
    AnswerSums,
    compare_answers,
)
from distrain.evaluation.validation import Validation
from distrain.finetune.lora import adapters_disabled
from distrain.runs.conclusion import ANSWERS
from distrain.stages.answers import measure_answers, tell
from distrain.stages.context import Outcome, StageContext, typed
from distrain.stages.finetuning import begin
from distrain.stages.sft_samples import ExampleSamples
from distrain.stages.training import close, train_to_outcome
from distrain.train.run import Run


def run_stage(context: StageContext) -> Outcome:
    """Fine-tune until the end, early stopping or a wish. Collective."""
    started = time.monotonic()
    stage = typed(context.recipe, context.name, SftStage)
    tuning = begin(context, stage)
    run = tuning.run
    measure = answers_of(run.validation, tuning.validation)
    # Adapters alone can be left out; else there is no way back to the base: it is measured now.
    is_lost = stage.lora is None or stage.lora.modules_to_save
    before = measure() if is_lost else None
    outcome, _ = train_to_outcome(run)
    if outcome.result is None:
        close(run)
        return outcome
    answers = compare_with_base(run, measure, before, context.recipe.seed)
    close(run)
    figures = outcome.result | {
        **tuning.figures(),
        **of_older_versions(answers),
        ANSWERS: answers,
        "seconds": round(time.monotonic() - started, 1),
    }
    return replace(outcome, result=figures)


def answers_of(validation: Validation, samples: ExampleSamples) -> Callable[[], AnswerSums]:
    """Return what measures the held-out answers, always the same ones. Collective, when called."""
    choice = validation.held_out.choice
    sizes = {name: len(dataset) for name, dataset in samples.datasets().items()}
    chosen = {name: choice.indices(name, size) for name, size in sizes.items()}
    return partial(measure_answers, validation.sum_examples, samples, samples.numbers_of(chosen))


def compare_with_base(
    run: Run, measure: Callable[[], AnswerSums], base: AnswerSums | None, seed: int
) -> dict[str, Any]:
    """Measure the trained model, and its base where adapters can be left out. Collective."""
    tuned = measure()
    if base is None:
        with adapters_disabled(run.engine.model):
            base = measure()
    answers = compare_answers(tuned, base, seed=seed)
    tell(answers, run.task.form)
    return answers


def of_older_versions(answers: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that results have always had, under the names that they have there."""
    return {f"eval_{name}": answers[name] for name in (BASE_OWN, BASE_SHUFFLED, SHUFFLED)}
