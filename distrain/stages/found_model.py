"""Where a stage finds the model and the tokenizer that it begins with: along its line of stages."""

from dataclasses import replace
from pathlib import Path

from distrain.config.lineage import Lineage
from distrain.config.lora import LoraConfig
from distrain.config.recipe import FinetuneStage, Stage, TrainStage, folder_of
from distrain.data.tokenizer.growing import grow_tokenizer
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import PreflightError
from distrain.models.gguf.convert import pretrained_folder
from distrain.models.huggingface import open_huggingface
from distrain.runs.sums import find_damage
from distrain.stages.base_model import BaseModel, TrainedAdapter
from distrain.stages.context import StageContext, typed
from distrain.stages.products import Sources


def make_tokenizer(context: StageContext, scratch: Path, base: Path | None = None) -> Path:
    """Return the tokenizer of a stage, begun or not: a file, or a folder that holds one.

    Args:
        context: Of a training stage.
        scratch: An empty folder; where stages of its line add tokens, theirs are made there again.
        base: Of the first stage, if somebody has found it.

    Raises:
        PreflightError: The user's Hugging Face folder cannot be used.
    """
    root = context.first
    written = folder_of(context.recipe.stages[root])
    if base is not None:
        path = base
    elif written is not None:
        path = pretrained_folder(written, context.run.models)
    else:
        path = context.run.stage(str(context.lineage.up_to(root).data)).tokenizer
    for link in context.lineage.trained:
        names = added_by(context.recipe.stages[link.stage])
        if names:
            grow_tokenizer(path, names, scratch / link.stage)
            path = scratch / link.stage
    return path


def find_start(context: StageContext, sources: Sources) -> BaseModel | None:
    """Find what a stage begins with; ``None``: random weights.

    Raises:
        PreflightError: The user's Hugging Face folder cannot be used.
    """
    stage = context.stage
    if isinstance(stage, TrainStage) and stage.model.from_pretrained is not None:
        folder = pretrained_folder(stage.model.from_pretrained, context.run.models)
        return open_folder(folder)
    return find_model(context, context.source, sources) if context.source.trained else None


def find_model(context: StageContext, lineage: Lineage, sources: Sources) -> BaseModel:
    """Find the whole model at the end of a lineage; of one that trains nothing, the user's own.

    Raises:
        PreflightError: The user's Hugging Face folder cannot be used.
    """
    root = context.first
    first, written = context.recipe.stages[root], folder_of(context.recipe.stages[root])
    checkpoints = {link: sources[link.stage] for link in lineage.model}
    weights = [path for link, path in checkpoints.items() if link.artefact == "weights"]
    if written is not None:
        folder = pretrained_folder(written, context.run.models)
        base = open_folder(folder, with_weights=not weights)
    else:
        assert isinstance(first, TrainStage), "without a folder, a stage has trained the model"
        tokenizer = context.run.stage(str(lineage.up_to(root).data)).tokenizer
        base = BaseModel(first.model, Tokenizer.load(tokenizer).vocab_size, tokenizer)
    for link in lineage.pretrained.trained:
        base = grown_by(context, link.stage, base)
        if link.artefact == "adapter":
            base = base.for_adapters(lora_of(context, link.stage))
        # Trained further by now: what was merged, untied or grown is so in the checkpoint.
        base = replace(base, tied=None, quantized_for=None, growth=None)
    base = replace(base, checkpoint=weights[0] if weights else None)
    for link, path in checkpoints.items():
        if link.artefact == "adapter":
            base = grown_by(context, link.stage, base).for_adapters(lora_of(context, link.stage))
            adapter = TrainedAdapter(path, lora_of(context, link.stage), base.growth)
            base = replace(
                base, adapters=(*base.adapters, adapter), quantized_for=None, growth=None
            )
    return base


def grown_by(context: StageContext, stage: str, base: BaseModel) -> BaseModel:
    """Return a model with the tokens that a stage has added to it, if it has.

    Raises:
        PreflightError: Its tokenizer is not there, or was changed.
    """
    if not added_by(context.recipe.stages[stage]):
        return base
    folder = context.run.stage(stage).grown_tokenizer
    damage = find_damage(folder) if folder.is_dir() else "no such folder"
    if damage is not None:
        raise PreflightError(
            str(folder),
            damage,
            f"the tokenizer that stage '{stage}' was trained with",
            "Put it back: the tokenizer of its export is the same one.",
        )
    return base.with_tokens_of(folder)


def open_folder(folder: Path, *, with_weights: bool = True) -> BaseModel:
    """Open a user's Hugging Face folder; without weights where a checkpoint has others.

    Raises:
        PreflightError: It cannot be used.
    """
    found = open_huggingface(folder)
    weights = found.weights if with_weights else None
    return BaseModel(found.config, found.vocab_size, folder, weights=weights, origin=found.origin)


def added_by(stage: Stage) -> tuple[str, ...]:
    """Return the names of the tokens that a stage adds to the tokenizer of its base."""
    return stage.data.add_tokens if isinstance(stage, FinetuneStage) else ()


def lora_of(context: StageContext, stage: str) -> LoraConfig:
    """Return with which settings a stage has trained adapters."""
    lora = typed(context.recipe, stage, FinetuneStage).lora
    assert lora is not None, "it has trained an adapter"
    return lora
