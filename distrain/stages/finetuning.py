"""What the stages of fine-tuning share: base, examples, adapters, up to the first step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from distrain.config.layout import require_replicas, resolve_layout
from distrain.config.lora import LoraConfig
from distrain.config.recipe import FinetuneStage
from distrain.finetune.leaks import probe_leaks
from distrain.finetune.lora import initialize_lora, inject_lora, is_tuned, plain_name, target_layers
from distrain.models import build_model, model_on_meta
from distrain.models.causal_lm import CausalLM
from distrain.models.flops import flops_of_training
from distrain.models.freezing import freeze
from distrain.optim import build_optimizer
from distrain.parallel.apply import ModelSpec
from distrain.parallel.model_spec import Precision, always
from distrain.parallel.once_a_node import once_a_node
from distrain.stages.base_model import BaseModel, fitting_tokenizer
from distrain.stages.context import StageContext
from distrain.stages.found_model import find_start
from distrain.stages.new_tokens import count_new_tokens, with_new_tokens
from distrain.stages.products import build_on
from distrain.stages.prompts import lay_out_prompts
from distrain.stages.sft_data import build_encoder, find_training_examples, reading_of
from distrain.stages.sft_records import lengths_record, write_examples
from distrain.stages.sft_samples import ExampleSamples
from distrain.stages.training import optimizer_of
from distrain.tasks.task import Task
from distrain.train.build import TrainSetup, build_host, build_run
from distrain.train.run import Run


@dataclass(frozen=True)
class Tuning:
    """A stage of fine-tuning before its first step: the model is the base, whatever comes next.

    Args:
        run: Ready to train; restores its checkpoint, if there is one, when it does.
        setup: That it was built from.
        train: Examples to train on.
        validation: Held-out ones.
        lengths: What did not fit into rows, for ``data.json`` and the result.
        num_parameters: Of the base.
    """

    run: Run
    setup: TrainSetup
    train: ExampleSamples
    validation: ExampleSamples
    lengths: dict[str, Any]
    num_parameters: int

    def figures(self) -> dict[str, Any]:
        """Return what the result says of any fine-tuning."""
        return {
            "pairs": {"train": len(self.train), "validation": len(self.validation)},
            **self.lengths,
            "parameters": self.num_parameters,
        }


def begin(context: StageContext, stage: FinetuneStage, task: Task | None = None) -> Tuning:
    """Read base and examples, and build the run. Collective.

    Args:
        context: Of the stage.
        stage: Its section.
        task: See ``TrainSetup``.
    """
    host = build_host(stage.training)
    start = find_start(context, build_on(context, host))
    assert start is not None, "the recipe says what is tuned"
    start = with_new_tokens(context, stage, start, host)
    base = start.with_rates_of(stage.model).for_adapters(stage.lora)
    tokenizer = fitting_tokenizer(base)
    encoder = build_encoder(context, stage, context.folder, base.tokenizer, tokenizer)
    train, validation = once_a_node(host, partial(find_training_examples, context, encoder))
    splits = {"train": train, "validation": validation}
    lengths = lengths_record(splits, stage) | count_new_tokens(base, tokenizer, splits)
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
        # Rows may fall to validation, or a file of its own change, with the same train examples.
        held_out_digests={
            name: dataset.tokens.digest() for name, dataset in validation.datasets().items()
        },
        spec=partial(model_spec, stage, base, context.recipe.seed),
        flops_per_token=flops_of(stage, shapes),
        attention=shapes.model_config.attention_needs,
        attempt=context.attempt,
        keep_steps=context.named_steps,
        count_bytes=tokenizer.token_bytes,
        reads=lengths,
        task=task,
        tokenizer=base.tokenizer,
        prompts=lay_out_prompts(stage.eval.samples, base.tokenizer, tokenizer, encoder),
    )
    require_replicas(stage, resolve_layout(stage.parallelism, host.world_size))
    run = build_run(setup, host)
    base.load_into(run.engine)
    # A pair of answers is a row of two documents, as packed examples are.
    if stage.data.packing != "none" or stage.data.reads_preferences:
        packed = max(train.datasets().values(), key=len)
        leak = probe_leaks(run.engine.model, packed, base.vocab_size, run.device, run.engine.ranks)
        lengths["leak_probe"] = leak.to_json()
    return Tuning(run, setup, train, validation, lengths, shapes.num_parameters())


def flops_of(stage: FinetuneStage, shapes: CausalLM) -> float:
    """Count the operations of a token that is trained on, beside what stays as it is."""
    length = stage.training.sequence_length
    if stage.lora is None:
        return flops_of_training(shapes, length, stage.training.trains)
    ranks = {layer: stage.lora.rank_of(layer) for layer in target_layers(shapes, stage.lora)}
    return flops_of_training(shapes, length, stage.lora.saves, ranks)


def model_spec(
    stage: FinetuneStage, base: BaseModel, seed: int, device: torch.device, precision: Precision
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
        parallelism=stage.parallelism,
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
