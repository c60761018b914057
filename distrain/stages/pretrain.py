"""The ``pretrain`` stage: next-token training on the shards of a ``prepare`` stage.

It trains every parameter, and begins with random weights, with the whole model of an
earlier stage, or with that of a folder.
"""

import time
from dataclasses import replace
from functools import partial
from operator import attrgetter

import numpy as np
import torch
from numpy.typing import NDArray

from distrain.config.recipe import PrepareStage, PretrainStage
from distrain.config.tasks import IGNORE_INDEX
from distrain.data.opened.form import PreparedData, SampleSettings
from distrain.data.shards.reader import check_tokenizer
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.evaluation.unigram import unigram_cross_entropy, unigram_entropy
from distrain.models import build_model, model_on_meta
from distrain.models.causal_lm import CausalLM
from distrain.models.flops import flops_of_training
from distrain.models.freezing import freeze
from distrain.models.init import initialize
from distrain.parallel.apply import ModelSpec
from distrain.parallel.model_spec import Precision
from distrain.parallel.process_group import local_world_size
from distrain.runs.folder import StageFolder
from distrain.stages.base_model import fitting_tokenizer, require_same_tokenizer
from distrain.stages.context import Outcome, StageContext, typed
from distrain.stages.found_model import find_start
from distrain.stages.pretrain_data import PretrainData, open_pretrain_data
from distrain.stages.products import build_on
from distrain.stages.prompts import lay_out_prompts
from distrain.stages.training import close, optimizer_of, train_to_outcome
from distrain.train.build import TrainSetup, build_host, build_run
from distrain.train.run import Run


def run_stage(context: StageContext) -> Outcome:
    """Train until the end, early stopping or a wish. Collective."""
    started = time.monotonic()
    stage = typed(context.recipe, context.name, PretrainStage)
    host = build_host(stage.training)
    start = find_start(context, build_on(context, host))
    prepare = context.run.stage(str(context.lineage.data))
    tokenizer = Tokenizer.load(prepare.tokenizer)
    vocab_size = tokenizer.vocab_size
    if start is not None:
        require_same_tokenizer(start, tokenizer, prepare)
        start = start.with_rates_of(stage.model)
        stage = stage.model_copy(update={"model": start.model})
        vocab_size = start.vocab_size
    length = stage.training.sequence_length
    data = open_data(context, prepare, tokenizer, length)
    shapes = model_on_meta(stage.model, vocab_size)
    setup = TrainSetup(
        run=context.run,
        name=context.name,
        seed=context.recipe.seed,
        stage=stage,
        train=data.train,
        data=stage.data,
        validation=data.validation,
        spec=partial(model_spec, stage, vocab_size, context.recipe.seed),
        flops_per_token=flops_of_training(shapes, length, stage.training.trains),
        attention=shapes.model_config.attention_needs,
        attempt=context.attempt,
        keep_steps=context.named_steps,
        count_bytes=tokenizer.token_bytes,
        tokenizer=prepare.tokenizer if start is None else start.tokenizer,
        prompts=lay_out_prompts(
            stage.eval.samples,
            prepare.tokenizer if start is None else start.tokenizer,
            # A model that was given further tokens may write them.
            tokenizer if start is None else fitting_tokenizer(start),
            encoder=None,
        ),
    )
    run = build_run(setup, host)
    if start is not None:
        start.load_into(run.engine)
    outcome, _ = train_to_outcome(run)
    # Token frequencies are something to beat for what is measured as they are.
    compares = run.task.form.trained.is_cross_entropy and outcome.result is not None
    unigram = unigram_figures(run, data.token_counts()) if compares else {}
    close(run)
    if outcome.result is None:
        return outcome
    figures = outcome.result | {
        "parameters": shapes.num_parameters(),
        "vocab_size": vocab_size,
        **unigram,
        "seconds": round(time.monotonic() - started, 1),
    }
    return replace(outcome, result=figures)


def open_data(
    context: StageContext, prepare: StageFolder, tokenizer: Tokenizer, length: int
) -> PretrainData:
    """Open the sources of the stage, in rows of ``length`` tokens.

    Raises:
        DataError: A split is missing, damaged, or was made with another tokenizer.
    """
    stage = typed(context.recipe, context.name, PretrainStage)
    prepared = PreparedData(
        typed(context.recipe, prepare.name, PrepareStage).data,
        prepare,
        stage.data,
        stage_kind=stage.kind,
        local_ranks=local_world_size(),
    )
    settings = SampleSettings(context.folder.path, length, context.recipe.seed)
    data = open_pretrain_data(prepared, settings)
    for source in data.train.values():
        for split in source.splits:
            check_tokenizer(split, tokenizer.fingerprint)
    return data


def model_spec(
    stage: PretrainStage, vocab_size: int, seed: int, device: torch.device, precision: Precision
) -> ModelSpec:
    """Say how layer 4 and its optimizer are made."""

    def build() -> CausalLM:
        return freeze(build_model(stage.model, vocab_size, stage.training.loss), stage.training)

    return ModelSpec(
        build_model=build,
        initialize=partial(initialize, seed=seed),
        build_optimizer=optimizer_of(stage.optimizer, stage.model, vocab_size),
        block_classes=attrgetter("block_classes"),
        device=device,
        precision=precision,
        parallelism=stage.parallelism,
        recompute_every=stage.training.recompute_every,
        compiles_blocks=stage.training.compiles_blocks,
    )


def unigram_figures(run: Run, train_counts: NDArray[np.int64]) -> dict[str, float]:
    """Compute what a model must beat, on the very targets that validation measures.

    Both in nats per token: the targets' own entropy, and their cross-entropy under the token
    frequencies of the train split.
    """
    counts = np.zeros_like(train_counts)
    for part in run.validation.parts():
        targets = part.microbatch.target_ids
        targets = targets[targets != IGNORE_INDEX]
        counts += np.bincount(targets.numpy(), minlength=len(counts)).astype(counts.dtype)
    counts = np.array(run.engine.ranks.sum(*counts.tolist()))
    return {
        "unigram_entropy": unigram_entropy(counts),
        "unigram_cross_entropy": unigram_cross_entropy(counts, train_counts),
    }
