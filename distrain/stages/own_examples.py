"""Examples of the user's own that a stage of kind ``evaluate`` measures."""

from typing import Any

from distrain.config.chats import MeasuredDataConfig
from distrain.config.recipe import EvaluateStage, FinetuneStage, TrainStage
from distrain.config.tasks import CAUSAL_LM
from distrain.data.chats.encoder import ChatEncoder
from distrain.data.chats.reading import read_undivided
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.evaluation.meter import Meter
from distrain.stages.answers import compare_by_meter
from distrain.stages.base_model import BaseModel
from distrain.stages.beside import find_beside
from distrain.stages.context import StageContext, typed
from distrain.stages.export import TrainedModel
from distrain.stages.sft_data import check_lengths, day_told, encode_samples, tell_lengths
from distrain.stages.sft_samples import ExampleSamples, RowForm
from distrain.tasks import TASKS

LONGEST_ROW = 2048
"""Tokens; unless the recipe says more, whatever the positions of a user's model are."""


def measure_own_examples(
    context: StageContext, meter: Meter, trained: TrainedModel, whole: BaseModel
) -> dict[str, Any]:
    """Measure ``data`` of the stage; beside what the model was made from.

    Raises:
        DataError: The examples cannot be had or laid out, or there are fewer than two.
    """
    data = typed(context.recipe, context.name, EvaluateStage).data
    assert data is not None, "the caller looked"
    samples = find_own_examples(context, data, whole)
    beside = find_beside(context, trained, whole)
    # Whatever the model was trained for, these are answers, token by token.
    task, seed = TASKS[CAUSAL_LM], context.recipe.seed
    figures = compare_by_meter(meter, samples, trained.merged, beside, task, seed)
    return figures | {
        "left_out": len(samples.left_out),
        "sources": {name: len(found) for name, found in samples.fitted.items()},
    }


def find_own_examples(
    context: StageContext, data: MeasuredDataConfig, whole: BaseModel
) -> ExampleSamples:
    """Read all examples, and lay them out by the template of the model itself."""
    tokenizer = Tokenizer.load(whole.tokenizer)
    last = _last_stage(context)
    trained = last.data if isinstance(last, FinetuneStage) else None
    arguments = trained.template_arguments if trained is not None else {}
    encoder = ChatEncoder(
        whole.tokenizer,
        tokenizer,
        train_on=data.train_on,
        # A model is asked as it was trained, unless the recipe says otherwise here.
        template_arguments={**arguments, **data.template_arguments},
        today=day_told(
            context, data.template_date, None if trained is None else trained.template_date
        ),
    )
    form = RowForm(
        sequence_length=_row_length(context, whole, last),
        pad_id=encoder.pad_id,
        packing="none",
        truncation=data.truncation,
        seed=context.recipe.seed,
        stop_ids=tuple(sorted(encoder.stop_ids)),
    )
    samples = encode_samples(read_undivided(data), encoder, form, data)
    setting = "sequence_length" if last is None else "training.sequence_length of the model's stage"
    check_lengths({"data": samples}, setting)
    tell_lengths(samples, "data")
    if len(samples) < 2:
        raise DataError(
            ", ".join(map(data.setting_of, samples.fitted)),
            f"{len(samples)} examples, and {len(samples.left_out)} that are left out",
            "at least 2: each is measured with the prompt of another, too",
            "Add examples.",
        )
    return samples


def _last_stage(context: StageContext) -> TrainStage | None:
    trained = context.lineage.trained
    if not trained:
        return None
    stage = context.recipe.stages[trained[-1].stage]
    assert isinstance(stage, TrainStage), "only these train"
    return stage


def _row_length(context: StageContext, whole: BaseModel, last: TrainStage | None) -> int:
    stated = typed(context.recipe, context.name, EvaluateStage).sequence_length
    if stated is not None:
        return stated
    if last is not None:
        return last.training.sequence_length
    return min(whole.model.max_position_embeddings, LONGEST_ROW)
