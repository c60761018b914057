"""The ``sft`` stage: prompt-answer pairs, with the loss on the answer only.

It trains adapters (LoRA) or, without them, every parameter.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from distrain.config.layout import require_replicas, resolve_layout
from distrain.config.lora import LoraConfig
from distrain.config.recipe import SftStage
from distrain.evaluation.comparison import (
    BASE_OWN,
    BASE_SHUFFLED,
    SHUFFLED,
    AnswerSums,
    compare_answers,
)
from distrain.evaluation.validation import Validation
from distrain.finetune.leaks import probe_leaks
from distrain.finetune.lora import initialize_lora, inject_lora, is_tuned, plain_name
from distrain.models import build_model, model_on_meta
from distrain.models.causal_lm import CausalLM
from distrain.models.freezing import freeze
from distrain.optim import build_optimizer
from distrain.parallel.apply import ModelSpec
from distrain.parallel.model_spec import Precision, always
from distrain.runs.conclusion import ANSWERS
from distrain.stages.answers import measure_answers, tell
from distrain.stages.base_model import BaseModel, find_start, fitting_tokenizer
from distrain.stages.context import Outcome, StageContext, typed
from distrain.stages.products import build_on
from distrain.stages.prompts import lay_out_prompts
from distrain.stages.sft_data import build_encoder, find_training_examples, reading_of
from distrain.stages.sft_records import lengths_record, write_examples
from distrain.stages.sft_samples import ExampleSamples
from distrain.stages.training import close, optimizer_of, train_to_outcome
from distrain.train.build import TrainSetup, build_host, build_run
from distrain.train.run import Run


def run_stage(context: StageContext) -> Outcome:
    """Fine-tune until the end, early stopping or a wish. Collective."""
    started = time.monotonic()
    stage = typed(context.recipe, context.name, SftStage)
    host = build_host(stage.training)
    start = find_start(context, build_on(context, host))
    assert start is not None, "the recipe says what is tuned"
    base = start.with_rates_of(stage.model).for_adapters(stage.lora)
    tokenizer = fitting_tokenizer(base)
    encoder = build_encoder(context, stage, context.folder, base.tokenizer, tokenizer)
    train, validation = find_training_examples(context, encoder)
    splits = {"train": train, "validation": validation}
    lengths = lengths_record(splits, stage)
    if host.rank == 0:
        write_examples(context.folder, splits, tokenizer, context.recipe.seed)
    shapes = model_on_meta(base.model, base.vocab_size)
    setup = TrainSetup(
        run=context.run,
        name=context.name,
        seed=context.recipe.seed,
        stage=stage,
        train=train.streams(),
        data=reading_of(stage),
        validation=validation.datasets(),
        spec=partial(model_spec, stage, base, context.recipe.seed),
        flops_per_token=shapes.flops_per_token(stage.training.sequence_length),
        attention=shapes.model_config.attention_needs,
        attempt=context.attempt,
        keep_steps=context.named_steps,
        count_bytes=tokenizer.token_bytes,
        reads=lengths,
        prompts=lay_out_prompts(stage.eval.samples, base.tokenizer, tokenizer, encoder),
    )
    require_replicas(stage, resolve_layout(stage.parallelism, host.world_size))
    run = build_run(setup, host)
    base.load_into(run.engine)
    if stage.data.packing != "none":
        packed = max(train.datasets().values(), key=len)
        leak = probe_leaks(run.engine.model, packed, base.vocab_size, run.device)
        lengths["leak_probe"] = leak.to_json()
    measure = answers_of(run.validation, validation)
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
        "pairs": {"train": len(train), "validation": len(validation)},
        **lengths,
        "parameters": shapes.num_parameters(),
        **of_older_versions(answers),
        ANSWERS: answers,
        "seconds": round(time.monotonic() - started, 1),
    }
    return replace(outcome, result=figures)


def model_spec(
    stage: SftStage, base: BaseModel, seed: int, device: torch.device, precision: Precision
) -> ModelSpec:
    """Say how the adapted model and the optimizer of its adapters are made."""

    def adapted() -> CausalLM:
        if stage.lora is not None and stage.lora.quantization is not None:
            return inject_lora(
                base.build_quantized(stage.training.loss, precision), stage.lora, seed
            )
        model = build_model(base.model, base.vocab_size, stage.training.loss)
        if stage.lora is None:
            return freeze(model, stage.training)
        return inject_lora(model, stage.lora, seed)

    def fill(model: nn.Module) -> None:
        # Without adapters nothing begins at random: the base fills every parameter.
        if stage.lora is not None:
            initialize_lora(model, seed)

    return ModelSpec(
        build_model=adapted,
        initialize=fill,
        build_optimizer=(
            optimizer_of(stage.optimizer, base.model, base.vocab_size)
            if stage.lora is None
            # The matrices of adapters, which no family knows, have their outputs first.
            else partial(build_optimizer, config=stage.optimizer)
        ),
        block_classes=attrgetter("block_classes"),
        device=device,
        precision=precision,
        reshard_after_forward=stage.parallelism.reshard_after_forward,
        recompute_every=stage.training.recompute_every,
        compiles_blocks=stage.training.compiles_blocks,
        plain_name=plain_name,
        is_state=state_of(stage.lora),
    )


def state_of(lora: LoraConfig | None) -> Callable[[str], bool]:
    """Say which parameters a checkpoint holds: beside a base in 4 bits, what is trained.

    That base is made again from where it lies, which the stage has recorded by its digest.
    """
    if lora is None or lora.quantization is None:
        return always
    return partial(is_tuned, config=lora)


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
