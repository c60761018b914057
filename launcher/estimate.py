"""Sizes before a run: parameters, tokens, bytes of checkpoints.

They follow from the recipe, and from the ``config.json`` of a model that it starts from.
"""

from collections.abc import Mapping

from distrain.config.attention import AttentionKernel, kernels_by_rows
from distrain.config.huggingface import load_config
from distrain.config.layout import Layout
from distrain.config.lineage import lineage_of
from distrain.config.lora import ALL_LINEAR
from distrain.config.models import LlamaConfig, ModelConfig
from distrain.config.pretrained.resolve import resolve_pretrained
from distrain.config.recipe import FinetuneStage, Recipe, Stage, TrainStage
from distrain.errors import PreflightError
from launcher.base_tokenizers import grown_rows
from launcher.memory import MethodMemory, method_memory, untied_by
from launcher.model_counts import count_folder, count_model, vocabulary_of_data
from launcher.watch.progress import total_steps

WEIGHT_BYTES = 4
"""Per parameter in a checkpoint: an fp32 weight."""


def stage_parameters(recipe: Recipe, name: str) -> int | None:
    """Return the parameters of the model that a stage trains; ``None`` if nothing here says it."""
    found, stage = _stage_model(recipe, name), recipe.stages[name]
    if found is None or not isinstance(stage, TrainStage):
        return None
    written = _first_stage(recipe, name).model.from_pretrained
    if written is not None and not found[0].counts_itself and found == _first_model(recipe, name):
        # What the check of the folder has asked already: each question starts a process.
        return count_folder(resolve_pretrained(written)).parameters
    model, rows = _untied(stage, found[0]), found[1]
    return count_model(model, rows, stage.training.sequence_length).parameters


def adapted_layers(recipe: Recipe, name: str) -> tuple[str, ...] | None:
    """Return the last parts of the names of the layers that a stage trains adapters for.

    ``None`` for a stage without adapters; empty where nothing here knows the layers.
    """
    stage, found = recipe.stages[name], _stage_model(recipe, name)
    if not isinstance(stage, FinetuneStage) or stage.lora is None:
        return None
    if isinstance(stage.lora.target_modules, tuple):
        return tuple(sorted(set(stage.lora.target_modules)))
    if stage.lora.target_modules != ALL_LINEAR:
        return (stage.lora.target_modules,)  # a pattern of whole names
    if found is None:
        return ()
    # A table of a family names layers of all its options; what was counted, those that are there.
    counted = count_model(*found, stage.training.sequence_length)
    return counted.adaptable_layers or found[0].adaptable_layers


def stage_vocab_size(recipe: Recipe, name: str) -> int | None:
    """Return the rows of that model's vocabulary; ``None`` if nothing here says it."""
    found = _stage_model(recipe, name)
    return None if found is None else found[1]


def stage_model(recipe: Recipe, name: str) -> ModelConfig | None:
    """Return the model that a stage trains, with the rates that the stage itself states.

    ``None`` for a stage that trains none, and for a folder that cannot be read here.
    """
    stage = recipe.stages[name]
    if not isinstance(stage, TrainStage):
        return None
    first = _first_stage(recipe, name)
    if first.model.from_pretrained is None:
        return first.model.with_rates_of(stage.model)
    found = _pretrained_model(first.model.from_pretrained)
    return None if found is None else found[0].with_rates_of(stage.model)


def _stage_model(recipe: Recipe, name: str) -> tuple[ModelConfig, int] | None:
    """Return sizes and rows as the stage begins to train: grown, and untied by those before it."""
    if not isinstance(recipe.stages[name], TrainStage):
        return None
    found = _first_model(recipe, name)
    if found is None:
        return None
    model, rows = found
    for link in lineage_of(recipe.stages, name).start.trained:
        model = _untied(recipe.stages[link.stage], model)
    return model, grown_rows(recipe, name, rows)


def _untied(stage: Stage, model: ModelConfig) -> ModelConfig:
    # Which modules a family of transformers ties, only the library knows.
    if isinstance(stage, FinetuneStage) and isinstance(model, LlamaConfig):
        return untied_by(stage.lora, model)
    return model


def _first_model(recipe: Recipe, name: str) -> tuple[ModelConfig, int] | None:
    first = _first_stage(recipe, name)
    if first.model.from_pretrained is not None:
        return _pretrained_model(first.model.from_pretrained)
    rows = vocabulary_of_data(recipe, str(lineage_of(recipe.stages, name).root))
    return None if rows is None else (first.model, rows)


def _first_stage(recipe: Recipe, name: str) -> TrainStage:
    """Go through any number of stages down to the one that made the model."""
    first = recipe.stages[str(lineage_of(recipe.stages, name).root)]
    assert isinstance(first, TrainStage), "what a model comes from has trained it"
    return first


def stage_attention(recipe: Recipe, name: str) -> dict[str, Mapping[str, AttentionKernel]]:
    """Return the kernels of each kind of device that a training stage may get; empty: unknown."""
    stage, found = recipe.stages[name], _stage_model(recipe, name)
    if found is None or not isinstance(stage, TrainStage):
        return {}
    training = stage.training
    devices = ("cpu", "cuda") if training.device == "auto" else (training.device,)
    automatic = {"cpu": "fp32", "cuda": "bf16"}  # as the runtime chooses, on a GPU that has it
    return {
        device: kernels_by_rows(
            device,
            automatic[device] if training.precision == "auto" else training.precision,
            found[0].attention_needs,
        )
        for device in devices
    }


def stage_tokens(recipe: Recipe, name: str) -> int | None:
    """Return the input tokens that a stage trains on, if the recipe alone says so."""
    stage, steps = recipe.stages[name], total_steps(recipe, name)
    if not isinstance(stage, TrainStage) or steps is None:
        return None
    return steps * stage.training.global_batch_size * stage.tokens_per_sample


def checkpoint_bytes(recipe: Recipe, name: str) -> int | None:
    """Return the size of one checkpoint of a stage, if the recipe alone says so."""
    stage, parameters = recipe.stages[name], stage_parameters(recipe, name)
    if parameters is None or not isinstance(stage, TrainStage):
        return None
    lora = stage.lora if isinstance(stage, FinetuneStage) else None
    state_bytes = stage.optimizer.keeps.bytes_per_parameter
    if lora is not None and lora.quantization is not None:
        # The base in 4 bits is made again from what its digest names; no checkpoint holds it.
        found = stage_memory(recipe, name, microbatch_tokens=1)
        return None if found is None else found["qlora"].trained * (WEIGHT_BYTES + state_bytes)
    # Other adapters are small beside the model, and left out of the estimate.
    return parameters * (WEIGHT_BYTES + (state_bytes if lora is None else 0))


def stage_memory(
    recipe: Recipe,
    name: str,
    microbatch_tokens: int,
    layout: Layout | None = None,
    microbatches: int = 1,
) -> dict[str, MethodMemory] | None:
    """Return what each method of training takes of a process; see ``method_memory``.

    Of stages of fine-tuning, with frozen parts, or cut along axes; ``None`` for others, and for
    models whose layers are not known here.
    """
    stage, found = recipe.stages[name], _stage_model(recipe, name)
    if not isinstance(stage, TrainStage) or found is None or not isinstance(found[0], LlamaConfig):
        return None
    is_cut = layout is not None and layout.has_axes
    if not isinstance(stage, FinetuneStage) and not stage.training.freezes and not is_cut:
        return None
    return method_memory(
        stage, found[0], found[1], microbatch_tokens, layout=layout, microbatches=microbatches
    )


def logits_bytes(recipe: Recipe, name: str, num_tokens: int) -> int | None:
    """Return what all logits of so many positions take, if the vocabulary is known."""
    stage, vocab_size = recipe.stages[name], stage_vocab_size(recipe, name)
    if vocab_size is None or not isinstance(stage, TrainStage):
        return None
    return num_tokens * vocab_size * stage.training.logit_bytes


def kept_checkpoint_bytes(recipe: Recipe) -> dict[str, int]:
    """Return the disk space of each stage's checkpoints at their most.

    Those are the ones that are kept and one being written; a stage of unknown size is left out.
    """
    sizes = {}
    for name, stage in recipe.stages.items():
        size = checkpoint_bytes(recipe, name)
        if isinstance(stage, TrainStage) and size is not None:
            kept = stage.checkpoint.keep_last + (stage.checkpoint.keep_best is not None)
            sizes[name] = size * (kept + 1)
    return sizes


def _pretrained_model(written: str) -> tuple[ModelConfig, int] | None:
    try:
        return load_config(resolve_pretrained(written))
    except PreflightError:  # told where the model is checked
        return None
