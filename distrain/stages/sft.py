"""The ``sft`` stage: LoRA on prompt-answer pairs, with the loss on the answer only."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from distrain.checkpoint.dcp import load_entries
from distrain.config.loading import PretrainDataConfig
from distrain.config.recipe import SftStage
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import PreflightError
from distrain.finetune.lora import initialize_lora, inject_lora, is_adapter, plain_name
from distrain.models import MODELS, build_model
from distrain.models.causal_lm import CausalLM
from distrain.optim import build_optimizer
from distrain.parallel.apply import ModelSpec
from distrain.parallel.engine import Engine
from distrain.parallel.global_tensor import write_full
from distrain.parallel.model_spec import Precision
from distrain.stages.base_model import BaseModel, find_base
from distrain.stages.context import Outcome, StageContext, typed
from distrain.stages.products import build_on
from distrain.stages.sft_data import PairSamples, find_training_pairs, lengths_record
from distrain.stages.training import close, train_to_outcome
from distrain.train.build import TrainTask, build_host, build_run, build_validation
from distrain.train.run import Run

PAIRS = "pairs"
"""Name of the one source."""


def run_stage(context: StageContext) -> Outcome:
    """Fine-tune until the end, early stopping or a wish. Collective."""
    started = time.monotonic()
    stage = typed(context.recipe, context.name, SftStage)
    host = build_host(stage.training)
    base = find_base(context, build_on(context, host))
    tokenizer = fitting_tokenizer(base)
    train, validation = find_training_pairs(context, tokenizer)
    lengths = lengths_record({"train": train, "validation": validation}, stage)
    task = TrainTask(
        run=context.run,
        name=context.name,
        seed=context.recipe.seed,
        stage=stage,
        train={PAIRS: train.stream()},
        data=PretrainDataConfig(),
        validation={PAIRS: validation.dataset()},
        spec=partial(model_spec, stage, base, context.recipe.seed),
        flops_per_token=base.model.flops_per_token(base.vocab_size, stage.training.sequence_length),
        attempt=context.attempt,
        reads=lengths,
    )
    run = build_run(task, host)
    load_base(run.engine, base)
    outcome, _ = train_to_outcome(run)
    answers = compare_with_base(task, run, validation) if outcome.result is not None else {}
    close(run)
    if outcome.result is None:
        return outcome
    figures = outcome.result | {
        "pairs": {"train": len(train), "validation": len(validation)},
        **lengths,
        "parameters": base.model.num_parameters(base.vocab_size),
        **answers,
        "seconds": round(time.monotonic() - started, 1),
    }
    return replace(outcome, result=figures)


def fitting_tokenizer(base: BaseModel) -> Tokenizer:
    """Load the tokenizer of a model.

    Raises:
        PreflightError: It has ids for which the embedding has no row.
    """
    tokenizer = Tokenizer.load(base.tokenizer)
    if tokenizer.vocab_size > base.vocab_size:
        raise PreflightError(
            str(base.tokenizer),
            f"ids up to {tokenizer.vocab_size - 1}",
            f"less than {base.vocab_size}, the rows of the embedding",
            "Take the tokenizer that the model was trained with.",
        )
    return tokenizer


def model_spec(
    stage: SftStage, base: BaseModel, seed: int, device: torch.device, precision: Precision
) -> ModelSpec:
    """Say how the adapted model and the optimizer of its adapters are made."""

    def adapted() -> CausalLM:
        return inject_lora(build_model(base.model, base.vocab_size), stage.lora, seed)

    def fill(model: nn.Module) -> None:
        initialize_lora(model, seed)

    return ModelSpec(
        build_model=adapted,
        initialize=fill,
        build_optimizer=partial(build_optimizer, config=stage.optimizer),
        block_classes=MODELS[base.model.name].BLOCKS,
        device=device,
        precision=precision,
        reshard_after_forward=stage.parallelism.reshard_after_forward,
        plain_name=plain_name,
    )


def load_base(engine: Engine, base: BaseModel) -> None:
    """Fill the frozen weights; each rank reads its own part of them. Collective."""
    state = {
        name: entry
        for name, entry in engine.state(optimizer=False).items()
        if name.startswith("model/") and not is_adapter(name)
    }
    if base.checkpoint is not None:
        load_entries(base.checkpoint, state, None, partial=True)
    else:
        assert base.weights is not None, "a base is a checkpoint or weights"
        write_full(state, {f"model/{name}": tensor for name, tensor in base.weights.items()})
    engine.loaded(None)


def compare_with_base(task: TrainTask, run: Run, pairs: PairSamples) -> dict[str, float]:
    """Measure held-out answers with and without adapters, after their own and others' prompts.

    The loss after shuffled prompts shows how much of the gain comes from knowing what answers look
    like, and how much from reading the prompt. Nats per answer token. Collective.
    """
    shuffled = build_validation(task, {PAIRS: pairs.shuffled()}, run.engine, run.host, run.device)
    figures = {
        "eval_loss": run.validation.measure().loss,
        "eval_loss_shuffled_prompts": shuffled.measure().loss,
    }
    with adapters_disabled(run.engine.model):
        figures["eval_loss_base"] = run.validation.measure().loss
        figures["eval_loss_base_shuffled_prompts"] = shuffled.measure().loss
    return figures


@contextmanager
def adapters_disabled(model: nn.Module) -> Iterator[None]:
    """Let the forward pass leave the adapters out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True  # the public switch also changes what is trainable
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
