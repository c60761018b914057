"""The ``preference`` stage: pairs of a chosen and a rejected answer, to be told apart (DPO, IPO).

It trains adapters (LoRA) or, without them, every parameter, as ``sft`` does.
"""

import time
from dataclasses import replace

from distrain.config.recipe import PreferenceStage
from distrain.finetune.reference import live_reference
from distrain.stages.context import Outcome, StageContext, typed
from distrain.stages.finetuning import begin
from distrain.stages.preference_reference import keep_reference
from distrain.stages.training import close, train_to_outcome
from distrain.tasks.preference import PreferenceTask, kept_reference


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
    scores = run.validation.measure().metrics if outcome.result is not None else {}
    close(run)
    if outcome.result is None:
        return outcome
    figures = outcome.result | {
        **tuning.figures(),
        **{f"eval_{name}": value for name, value in scores.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    return replace(outcome, result=figures)
