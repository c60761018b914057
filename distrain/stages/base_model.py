"""The whole model that a stage begins with: weights of a stage or a folder, adapters merged."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from distrain.checkpoint.dcp import load_entries, read_full
from distrain.config.huggingface import load_config
from distrain.config.lineage import Lineage
from distrain.config.models import ModelConfig
from distrain.config.recipe import SftStage, TrainStage
from distrain.config.training import LoraConfig
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import PreflightError
from distrain.finetune.lora import is_adapter, merge, merge_into
from distrain.models.huggingface import load_huggingface, read_origin
from distrain.models.origin import Origin
from distrain.parallel.engine import Engine
from distrain.parallel.global_tensor import write_full
from distrain.stages.context import StageContext, typed
from distrain.stages.products import Sources


@dataclass(frozen=True)
class TrainedAdapter:
    """The low-rank matrices that a fine-tuning stage has trained.

    Args:
        checkpoint: That stands for the stage.
        lora: With which they were made.
    """

    checkpoint: Path
    lora: LoraConfig

    def read(self) -> dict[str, Tensor]:
        """Return them whole, under the names of ``lora.plain_name``, in this process alone."""
        state = read_full(self.checkpoint)
        return {name: tensor for name, tensor in state.items() if is_adapter(name)}


@dataclass(frozen=True)
class BaseModel:
    """A whole model: what training starts from, what is measured and exported.

    Args:
        model: Sizes; dropout is the caller's.
        vocab_size: Rows of the embedding.
        tokenizer: A ``tokenizer.json``, or a folder that holds one.
        checkpoint: Of a stage that trained every parameter; or
        weights: the whole tensors of a user's Hugging Face folder.
        adapters: Merged into it, one after the other.
        origin: What else the user's folder says, if the first stage started from one.
    """

    model: ModelConfig
    vocab_size: int
    tokenizer: Path
    checkpoint: Path | None = None
    weights: dict[str, Tensor] | None = None
    adapters: tuple[TrainedAdapter, ...] = ()
    origin: Origin | None = None

    def with_dropout(self, dropout: float) -> "BaseModel":
        """Return it with the dropout of the stage that trains."""
        return replace(self, model=self.model.model_copy(update={"dropout": dropout}))

    def read(self) -> dict[str, Tensor]:
        """Return the whole parameters, in this process alone."""
        if self.weights is not None:
            state = self.weights
        else:
            assert self.checkpoint is not None, "a base is a checkpoint or weights"
            state = read_full(self.checkpoint)
        for adapter in self.adapters:
            state = merge(state, adapter.read(), adapter.lora)
        return state

    def load_into(self, engine: Engine) -> None:
        """Fill all parameters but adapters of its own; each rank reads its part. Collective.

        The bits are those of ``read``, whatever part a rank holds.
        """
        state = {
            name: entry
            for name, entry in engine.state(optimizer=False).items()
            if name.startswith("model/") and not is_adapter(name)
        }
        if self.checkpoint is not None:
            load_entries(self.checkpoint, state, None, partial=True)
        else:
            assert self.weights is not None, "a base is a checkpoint or weights"
            write_full(state, {f"model/{name}": tensor for name, tensor in self.weights.items()})
        for adapter in self.adapters:
            merge_into(state, adapter.read(), adapter.lora)
        engine.loaded(None)


def find_start(context: StageContext, sources: Sources) -> BaseModel | None:
    """Find what a stage begins with; ``None``: random weights.

    Raises:
        PreflightError: The user's Hugging Face folder cannot be used.
    """
    stage = context.stage
    if isinstance(stage, TrainStage) and stage.model.from_pretrained is not None:
        return _of_folder(Path(stage.model.from_pretrained), with_weights=True)
    return find_model(context, context.source, sources) if context.source.trained else None


def find_model(context: StageContext, lineage: Lineage, sources: Sources) -> BaseModel:
    """Find the whole model at the end of a lineage that has one.

    Raises:
        PreflightError: The user's Hugging Face folder cannot be used.
    """
    stages, root = context.recipe.stages, lineage.root
    assert root is not None, "a model has a stage that trained it"
    checkpoints = {link: sources[link.stage] for link in lineage.model}
    weights = [path for link, path in checkpoints.items() if link.artefact == "weights"]
    adapters = [
        TrainedAdapter(path, typed(context.recipe, link.stage, SftStage).lora)
        for link, path in checkpoints.items()
        if link.artefact == "adapter"
    ]
    first = stages[root]
    assert isinstance(first, TrainStage), "a stage that leaves a model trains one"
    if first.model.from_pretrained is not None:
        base = _of_folder(Path(first.model.from_pretrained), with_weights=not weights)
    else:
        tokenizer = context.run.stage(str(lineage.up_to(root).data)).tokenizer
        base = BaseModel(first.model, Tokenizer.load(tokenizer).vocab_size, tokenizer)
    checkpoint = weights[0] if weights else None
    return replace(base, checkpoint=checkpoint, adapters=tuple(adapters))


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


def to_float32(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round fp64 masters to what is exported; fp32 ones stay as they are."""
    return {name: tensor.to(torch.float32) for name, tensor in state.items()}


def _of_folder(folder: Path, *, with_weights: bool) -> BaseModel:
    folder = folder.expanduser()
    if with_weights:
        model, vocab_size, weights = load_huggingface(folder)
    else:
        (model, vocab_size), weights = load_config(folder), None
    return BaseModel(model, vocab_size, folder, weights=weights, origin=read_origin(folder))
