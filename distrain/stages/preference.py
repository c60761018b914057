"""The ``preference`` stage: pairs of a chosen and a rejected answer, to be told apart (DPO, IPO).

It trains adapters (LoRA) or, without them, every parameter, as ``sft`` does.
"""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from distrain.config.recipe import PreferenceStage
from distrain.data.samples.order import Ints
from distrain.data.samples.pairs import PairDataset
from distrain.evaluation.bootstrap import Floats
from distrain.finetune.reference import live_reference, model_logps, say_of_pairs
from distrain.runs.conclusion import PREFERENCES
from distrain.stages.context import Outcome, StageContext, typed
from distrain.stages.finetuning import Tuning, begin
from distrain.stages.preference_evaluation import intervals_of
from distrain.stages.preference_reference import keep_reference
from distrain.stages.preference_samples import PairSamples
from distrain.stages.training import close, train_to_outcome
from distrain.tasks.preference import PreferenceTask, Reference, kept_reference


def run_stage(context: StageContext) -> Outcome:
    """Fine-tune until the end, early stopping or a wish. Collective."""
    started = time.monotonic()
    stage = typed(context.recipe, context.name, PreferenceStage)
    is_live = stage.preference.reference == "live"
    task = PreferenceTask(stage.preference, live_reference if is_live else kept_reference)
    tuning = begin(context, stage, task)
    run = tuning.run
    if not is_live:
        keep_reference(context, stage, tuning)
    outcome, _ = train_to_outcome(run)
    # The base itself needs no measuring: it is the reference, so that its margins are 0.
    if outcome.result is None:
        close(run)
        return outcome
    scores = run.validation.measure().metrics
    intervals = _intervals(context, stage, tuning)
    close(run)
    figures = outcome.result | {
        **tuning.figures(),
        **{f"eval_{name}": value for name, value in scores.items()},
        PREFERENCES: {"intervals": intervals},
        "seconds": round(time.monotonic() - started, 1),
    }
    return replace(outcome, result=figures)


def _intervals(context: StageContext, stage: PreferenceStage, tuning: Tuning) -> dict[str, Any]:
    """Compare the model with its reference on the held-out pairs of the validations. Collective."""
    run, samples = tuning.run, tuning.validation
    assert isinstance(samples, PairSamples), "the stage reads preferences"

    def say(of: Reference, pairs: PairDataset, chosen: Ints) -> Floats:
        size, ranks = stage.training.micro_batch_size, run.engine.ranks
        return say_of_pairs(of, run.engine.model, pairs, chosen, run.device, size, ranks)

    choice = run.validation.held_out.choice
    found = {
        name: (pairs, choice.indices(name, len(pairs)))
        for name, pairs in samples.pairs.items()
        if choice.counts[name]
    }
    for pairs, chosen in found.values():
        if pairs.reference is None:  # live: only what is asked for
            pairs.reference = np.zeros((len(pairs), 2))
            pairs.reference[chosen] = say(live_reference, pairs, chosen)
    return intervals_of(
        found, partial(say, model_logps), stage.preference.beta, context.recipe.seed
    )
