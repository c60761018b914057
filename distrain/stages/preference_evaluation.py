"""The test split of pairs of answers, with the model before the stage as reference."""

from typing import Any

from distrain.config.recipe import PreferenceStage
from distrain.data.samples.datasets import JoinedDataset
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.evaluation.meter import Meter
from distrain.finetune.reference import compute_reference
from distrain.models.weights.source import WeightSource
from distrain.parallel.collectives import HostGroup
from distrain.stages.base_model import BaseModel, find_model, to_float32
from distrain.stages.context import StageContext, typed
from distrain.stages.export import TrainedModel
from distrain.stages.preference_samples import PairSamples
from distrain.stages.products import find_product
from distrain.stages.sft_data import build_encoder, find_test_examples
from distrain.tasks.preference import PreferenceTask


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
    meter.load(trained.base if context.lineage.tuned is not None else _before(context))
    for pairs in samples.pairs.values():
        pairs.reference = compute_reference(
            meter.model, pairs, meter.device, meter.micro_batch_size
        )
    meter.load(trained.merged)
    found = meter.measure(
        JoinedDataset(list(samples.pairs.values())), PreferenceTask(stage.preference)
    )
    return {"pairs": len(samples), **found.metrics}


def _before(context: StageContext) -> WeightSource:
    """Open what a stage of full tuning started from, which is still there."""
    start, host = context.lineage.start, HostGroup()
    names = [link.stage for link in start.model]
    found = {name: find_product(context.run, name, host, context.choice_of(name)) for name in names}
    checkpoints = {name: product.checkpoint for name, product in found.items()}
    return to_float32(find_model(context, start, checkpoints).source())
