"""The ``evaluate`` stage: the test split, used once, in one process.

Documents are measured with the model of the last stage that trained every parameter, or with a
user's own model; answers, after fine-tuning, beside what the last stage started from.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from distrain.config.harness import HarnessConfig
from distrain.config.loading import PretrainDataConfig
from distrain.config.recipe import (
    EvaluateStage,
    PreferenceStage,
    PrepareStage,
    PretrainStage,
    SftStage,
    TrainStage,
)
from distrain.config.tasks import CAUSAL_LM
from distrain.data.opened.form import PreparedData
from distrain.data.samples.datasets import Dataset, JoinedDataset, PretrainDataset
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.evaluation import test_set
from distrain.evaluation.meter import Meter
from distrain.models.causal_lm import CausalLM
from distrain.models.weights.filling import build_empty
from distrain.parallel.device_map import DeviceMemory
from distrain.runs.conclusion import ANSWERS, DATA
from distrain.runs.records import read_json, write_json
from distrain.stages.answers import compare_by_meter
from distrain.stages.base_model import BaseModel, require_same_tokenizer, to_float32
from distrain.stages.beside import find_beside
from distrain.stages.context import Outcome, StageContext, typed
from distrain.stages.export import TrainedModel, read_trained
from distrain.stages.found_model import find_model
from distrain.stages.own_examples import LONGEST_ROW, measure_own_examples
from distrain.stages.preference_evaluation import measure_preferences
from distrain.stages.pretrain_data import open_held_out
from distrain.stages.sft_data import build_encoder, find_test_examples, tuned_stage_of
from distrain.tasks import TASKS
from distrain.tasks.task import Task


def run_stage(context: StageContext) -> Outcome:
    """Measure the test split and use it up, or data of one's own.

    The figures are on disk before the use is: killed in between, the stage measures again, and
    killed after it, it needs no second look.
    """
    stage = typed(context.recipe, context.name, EvaluateStage)
    if stage.data is not None or not _has_test_split(context):
        return Outcome(_measure(context, stage))  # as often as one likes
    figures = read_json(context.folder.result)
    if figures is not None and not context.again and test_set.is_used(context.run, context.name):
        return Outcome(figures)
    test_set.claim(context.run, context.name, again=context.again)
    result = _measure(context, stage)
    write_json(context.folder.result, result)
    test_set.finish(context.run, context.name)
    return Outcome(result)


def _has_test_split(context: StageContext) -> bool:
    """Whether anything was held back for this stage: without it, only tasks are asked."""
    if context.lineage.data is not None:
        return True
    last = tuned_stage_of(context) if context.lineage.trained else None
    return last is not None and last.data.is_own and last.data.test_fraction > 0


def _measure(context: StageContext, stage: EvaluateStage) -> dict[str, Any]:
    trained, whole = read_trained(context)
    tokenizer = Tokenizer.load(whole.tokenizer)
    model = build_empty(trained.model, trained.vocab_size)
    meter = Meter(model, stage.micro_batch_size, DeviceMemory.find(stage.max_memory))
    result: dict[str, Any] = {"measured": {}}
    if stage.data is not None:
        result[DATA] = measure_own_examples(context, meter, trained, whole)
        last = context.lineage.trained[-1:]
        result["measured"][DATA] = last[0].stage if last else context.name
    elif not _has_test_split(context):
        pass
    elif not context.lineage.trained:
        split = open_split_for(context, whole, stage.sequence_length)
        meter.load(to_float32(whole.source()))
        result["documents"] = measure_documents(meter, split, tokenizer, TASKS[CAUSAL_LM])
        result["measured"]["documents"] = context.name
    else:
        result |= _measure_trained(context, meter, trained, whole)
    if stage.harness is not None:
        meter.load(to_float32(whole.source()))
        result["tasks"] = ask_tasks(meter.model, whole.tokenizer, stage.harness)
    return result


def _measure_trained(
    context: StageContext, meter: Meter, trained: TrainedModel, whole: BaseModel
) -> dict[str, Any]:
    result: dict[str, Any] = {"measured": {}}
    tokenizer = Tokenizer.load(whole.tokenizer)
    if whole.checkpoint is not None and _of_documents(context) is not None:
        stage = context.lineage.pretrained.trained[-1].stage
        split, task = open_test_split(context), task_of(context, str(_of_documents(context)))
        pretrained = _load_pretrained(context, meter, trained, whole)
        result["documents"] = measure_documents(pretrained, split, tokenizer, task)
        result["measured"]["documents"] = stage
    last = context.lineage.trained[-1].stage
    if isinstance(context.recipe.stages[last], SftStage):
        tuned, folder = typed(context.recipe, last, SftStage), context.run.stage(last)
        encoder = build_encoder(context, tuned, folder, whole.tokenizer, tokenizer)
        pairs = find_test_examples(context, encoder)
        if pairs is not None:
            beside = find_beside(context, trained, whole)
            task, seed = task_of(context, last), context.recipe.seed
            result[ANSWERS] = compare_by_meter(meter, pairs, trained.merged, beside, task, seed)
            result["measured"]["answers"] = last
    elif isinstance(context.recipe.stages[last], PreferenceStage):
        found = measure_preferences(context, meter, trained, whole)
        if found is not None:
            result["preferences"] = found
            result["measured"]["preferences"] = last
    return result


def _load_pretrained(
    context: StageContext, meter: Meter, trained: TrainedModel, whole: BaseModel
) -> Meter:
    """Return what measures the model below all adapters."""
    if not any(adapter.growth for adapter in whole.adapters):
        below = replace(whole, adapters=())
        meter.load(to_float32(below.source()) if whole.adapters[1:] else trained.base)
        return meter
    lineage = context.lineage.pretrained
    assert whole.checkpoint is not None, "the caller looked"
    # Before tokens were added: their rows would take a share of every probability.
    pretrained = find_model(context, lineage, {lineage.trained[-1].stage: whole.checkpoint})
    meter = meter.of(build_empty(pretrained.model, pretrained.vocab_size))
    meter.load(to_float32(pretrained.source()))
    return meter


def ask_tasks(model: CausalLM, tokenizer: Path, config: HarnessConfig) -> dict[str, Any]:
    """Ask the model that an export writes, adapters merged; see ``run_tasks``."""
    from distrain.evaluation.harness.opening import ask_whole, write_tokenizer
    from distrain.evaluation.harness.tasks import run_tasks

    with tempfile.TemporaryDirectory() as folder:
        written = write_tokenizer(tokenizer, Path(folder))
        return run_tasks(ask_whole(model, written, config.batch_tokens), config, "harness")


def open_split_for(context: StageContext, whole: BaseModel, length: int | None) -> Dataset:
    """Open the test split of all sources for a user's own model.

    Of ``length`` tokens a row; ``None``: the model's positions, up to a limit.

    Raises:
        PreflightError: The model has another tokenizer than the documents.
        DataError: The split is missing or damaged.
    """
    data = str(context.lineage.data)
    folder = context.run.stage(data)
    require_same_tokenizer(whole, Tokenizer.load(folder.tokenizer), folder)
    if length is None:
        length = min(whole.model.max_position_embeddings, LONGEST_ROW)
    return _joined_test_split(context, data, PretrainDataConfig(), length)


def open_test_split(context: StageContext) -> Dataset:
    """Open the test split of all sources that the last stage of documents was trained on.

    Raises:
        DataError: It is missing or damaged.
    """
    name = _of_documents(context)
    pretrain = typed(context.recipe, name, PretrainStage)
    lineage = context.lineage.up_to(str(name))
    length = pretrain.training.sequence_length
    return _joined_test_split(context, str(lineage.data), pretrain.data, length)


def _joined_test_split(
    context: StageContext, prepare: str, reading: PretrainDataConfig, length: int
) -> Dataset:
    prepared = PreparedData(
        typed(context.recipe, prepare, PrepareStage).data,
        context.run.stage(prepare),
        reading,
        stage_kind=context.stage.kind,
    )
    splits = [found.tokens for found in open_held_out(prepared, "test").values()]
    return JoinedDataset([PretrainDataset(split, length, keep_tail=True) for split in splits])


def _of_documents(context: StageContext) -> str | None:
    """Return the last stage that was trained on documents."""
    stages = [link.stage for link in context.lineage.trained]
    found = [name for name in stages if isinstance(context.recipe.stages[name], PretrainStage)]
    return found[-1] if found else None


def task_of(context: StageContext, stage: str) -> Task:
    """Return what a stage was trained for: it is measured by the same."""
    section = context.recipe.stages[stage]
    assert isinstance(section, TrainStage), "only training stages have a task"
    return TASKS[section.training.task]


def measure_documents(
    meter: Meter, dataset: Dataset, tokenizer: Tokenizer, task: Task
) -> dict[str, float]:
    """Return the task's figures and the number of targets."""
    summed = meter.measure(dataset, task, tokenizer.token_bytes)
    return task.form.with_derived(summed.metrics) | {"targets": summed.num_targets}
