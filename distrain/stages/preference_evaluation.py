"""The test split of pairs of answers, with the model before the stage as reference."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from distrain.config.recipe import PreferenceStage
from distrain.data.samples.datasets import JoinedDataset
from distrain.data.samples.order import Ints
from distrain.data.samples.pairs import PairDataset
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.evaluation.bootstrap import Floats
from distrain.evaluation.meter import Meter
from distrain.evaluation.pairs import compare_pairs
from distrain.finetune.reference import compute_reference, model_logps, say_of_pairs
from distrain.runs.conclusion import conclude_pairs
from distrain.stages.base_model import BaseModel
from distrain.stages.beside import weights_before
from distrain.stages.context import StageContext, typed
from distrain.stages.export import TrainedModel
from distrain.stages.preference_samples import PairSamples
from distrain.stages.sft_data import build_encoder, find_test_examples
from distrain.tasks.preference import PreferenceTask

log = logging.getLogger(__name__)


def measure_preferences(
    context: StageContext, meter: Meter, trained: TrainedModel, whole: BaseModel
) -> dict[str, Any] | None:
    """Return the figures of the test pairs, or nothing of data without a test split."""
    last = context.lineage.trained[-1].stage
    stage, folder = typed(context.recipe, last, PreferenceStage), context.run.stage(last)
    encoder = build_encoder(
        context, stage, folder, whole.tokenizer, Tokenizer.load(whole.tokenizer)
    )
    samples = find_test_examples(context, encoder)
    if samples is None:
        return None
    assert isinstance(samples, PairSamples), "the stage reads preferences"
    meter.load(trained.base if context.lineage.tuned is not None else weights_before(context))
    for pairs in samples.pairs.values():
        pairs.reference = compute_reference(
            meter.model, pairs, meter.device, meter.micro_batch_size
        )
    meter.load(trained.merged)
    found = meter.measure(
        JoinedDataset(list(samples.pairs.values())), PreferenceTask(stage.preference)
    )
    intervals = intervals_of(
        {name: (pairs, np.arange(len(pairs))) for name, pairs in samples.pairs.items()},
        partial(
            say_of_pairs,
            model_logps,
            meter.model,
            device=meter.device,
            micro_batch_size=meter.micro_batch_size,
        ),
        stage.preference.beta,
        context.recipe.seed,
    )
    return {"pairs": len(samples), **found.metrics, "intervals": intervals}


def intervals_of(
    pairs: Mapping[str, tuple[PairDataset, Ints]],
    say: Callable[[PairDataset, Ints], Floats],
    beta: float,
    seed: int,
) -> dict[str, Any]:
    """Compare what a model says of pairs with what the reference has said, and log what follows.

    Args:
        pairs: By source, which of them; each knows what the reference says.
        say: The model as it is now.
        beta: Of the loss.
        seed: Of the bootstrap.
    """
    model = np.concatenate([say(dataset, chosen) for dataset, chosen in pairs.values()])
    references = [(dataset.reference, chosen) for dataset, chosen in pairs.values()]
    base = np.concatenate([kept[chosen] for kept, chosen in references if kept is not None])
    found = compare_pairs(model, base, beta, seed=seed)
    said = conclude_pairs({"intervals": found})
    if said is not None:
        log.info("preferences: %s", said)
    return found
