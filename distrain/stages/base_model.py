"""Where a trained model lies: the base weights and the adapters of a line of stages."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distrain.checkpoint.dcp import read_full
from distrain.config.models import ModelConfig
from distrain.config.recipe import PretrainStage, SftStage
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.finetune.lora import is_adapter
from distrain.models.huggingface import load_huggingface, read_origin
from distrain.models.origin import Origin
from distrain.stages.context import StageContext, lineage_of, typed
from distrain.stages.products import Sources


@dataclass(frozen=True)
class BaseModel:
    """What fine-tuning starts from.

    Args:
        model: Sizes; dropout is that of the stage that asks.
        vocab_size: Rows of the embedding.
        tokenizer: A ``tokenizer.json``, or a folder that holds one.
        checkpoint: A pretraining checkpoint; or
        weights: the whole tensors of a user's Hugging Face folder; then
        origin: is what else that folder says.
    """

    model: ModelConfig
    vocab_size: int
    tokenizer: Path
    checkpoint: Path | None = None
    weights: dict[str, Tensor] | None = None
    origin: Origin | None = None

    def read(self) -> dict[str, Tensor]:
        """Return the whole parameters, in this process alone."""
        if self.weights is not None:
            return self.weights
        assert self.checkpoint is not None, "a base is a checkpoint or weights"
        return read_full(self.checkpoint)


def find_base(context: StageContext, sources: Sources) -> BaseModel:
    """Find the base weights of a stage that builds on ``sources``.

    Raises:
        PreflightError: The user's Hugging Face folder cannot be used.
    """
    recipe = context.recipe
    lineage = lineage_of(recipe, context.name)
    sft = None if lineage.sft is None else typed(recipe, lineage.sft, SftStage)
    if sft is not None and sft.model.from_pretrained is not None:
        folder = Path(sft.model.from_pretrained).expanduser()
        model, vocab_size, weights = load_huggingface(folder)
        model = model.model_copy(update={"dropout": sft.model.dropout})
        return BaseModel(model, vocab_size, folder, weights=weights, origin=read_origin(folder))
    pretrain = typed(recipe, lineage.pretrain, PretrainStage)
    tokenizer = context.run.stage(str(lineage.prepare)).tokenizer
    dropout = pretrain.model.dropout if sft is None else sft.model.dropout
    model = pretrain.model.model_copy(update={"dropout": dropout})
    checkpoint = sources[str(lineage.pretrain)]
    return BaseModel(model, Tokenizer.load(tokenizer).vocab_size, tokenizer, checkpoint)


def read_adapter(checkpoint: Path) -> dict[str, Tensor]:
    """Read the adapters of an ``sft`` stage, under the names of ``lora.plain_name``."""
    state = read_full(checkpoint)
    return {name: tensor for name, tensor in state.items() if is_adapter(name)}


def to_float32(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round fp64 masters to what is exported; fp32 ones stay as they are."""
    return {name: tensor.to(torch.float32) for name, tensor in state.items()}
