"""The ``export`` stage: a trained model as a folder that loads without distrain."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from distrain.config.models import ModelConfig
from distrain.config.training import LoraConfig
from distrain.data.tokenizer.huggingface import save_huggingface as save_tokenizer
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.finetune.lora import merge, save_adapter
from distrain.models import MODELS
from distrain.models.huggingface import write_huggingface
from distrain.models.origin import Origin, SpecialTokens
from distrain.parallel.collectives import HostGroup
from distrain.runs.durable import whole_folder
from distrain.runs.sums import write_sums
from distrain.stages.base_model import BaseModel, find_model, to_float32
from distrain.stages.context import Outcome, StageContext
from distrain.stages.products import build_on

BASE_FOLDER = "base"
ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True)
class TrainedModel:
    """What training left behind, as whole tensors.

    Args:
        base_state: Parameters by name, before the last stage if that is fine-tuning.
        model: Sizes.
        vocab_size: Rows of the embedding.
        adapter_state: Adapters under the names of ``lora.plain_name``; ``None`` without.
        lora: With which they were made.
        origin: What else the user's folder says; ``None`` for a model made here.
    """

    base_state: Mapping[str, Tensor]
    model: ModelConfig
    vocab_size: int
    adapter_state: Mapping[str, Tensor] | None = None
    lora: LoraConfig | None = None
    origin: Origin | None = None


def run_stage(context: StageContext) -> Outcome:
    """Export what the stage that this one needs has trained."""
    trained, whole = read_trained(context)
    export_huggingface(trained, whole.tokenizer, context.folder.huggingface)
    files = [path for path in context.folder.huggingface.rglob("*") if path.is_file()]
    return Outcome(
        {
            "folder": str(context.folder.huggingface.relative_to(context.run.root)),
            "parameters": sum(tensor.numel() for tensor in trained.base_state.values()),
            "size_bytes": sum(path.stat().st_size for path in files),
            "has_adapter": trained.adapter_state is not None,
        }
    )


def read_trained(context: StageContext) -> tuple[TrainedModel, BaseModel]:
    """Read the whole tensors of what a line of stages has trained.

    Returns:
        They, with the last stage's adapters apart; and where they lie.
    """
    whole = find_model(context, context.lineage, build_on(context, HostGroup()))
    adapter, base = None, whole
    if context.lineage.tuned is not None:
        adapter, base = whole.adapters[-1], replace(whole, adapters=whole.adapters[:-1])
    # Values that a user's folder holds are kept as they are, and written so again.
    state = base.read() if base.origin else to_float32(base.read())
    trained = TrainedModel(state, base.model, base.vocab_size, origin=base.origin)
    if adapter is not None:
        matrices = to_float32(adapter.read())
        trained = replace(trained, adapter_state=matrices, lora=adapter.lora)
    return trained, whole


def export_huggingface(trained: TrainedModel, tokenizer_json: Path, folder: Path) -> None:
    """Write a Hugging Face folder: configuration, safetensors, tokenizer.

    With adapters, ``folder`` holds the merged model, ``folder/base`` the one that the last
    fine-tuning started from and ``folder/adapter`` the adapters, for
    ``PeftModel.from_pretrained(base model, adapter)``.

    Each folder holds the digests of its files besides.

    Args:
        trained: The model.
        tokenizer_json: The tokenizer it was trained with: the file, or a folder that holds it.
        folder: Appears when it is complete; one that is there is replaced.

    Raises:
        ValueError: The states do not belong together or not to a model of these sizes.
    """
    with whole_folder(folder) as partial:
        state = trained.base_state
        if trained.adapter_state is not None:
            assert trained.lora is not None, "adapters come with the settings that made them"
            _write(trained, trained.base_state, tokenizer_json, partial / BASE_FOLDER)
            save_adapter(
                trained.adapter_state,
                trained.lora,
                MODELS[trained.model.name],
                BASE_FOLDER,
                partial / ADAPTER_FOLDER,
            )
            state = merge(trained.base_state, trained.adapter_state, trained.lora)
        _write(trained, state, tokenizer_json, partial)
        for place in (partial, *(path for path in partial.iterdir() if path.is_dir())):
            write_sums(place)


def special_tokens(tokenizer: Tokenizer) -> SpecialTokens:
    """Return the ids that transformers needs to start, end and pad a text."""
    prefix = tokenizer.prefix_ids
    return SpecialTokens(
        bos_token_id=prefix[0] if prefix else None,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )


def _write(
    trained: TrainedModel, state: Mapping[str, Tensor], tokenizer_json: Path, folder: Path
) -> None:
    save_tokenizer(tokenizer_json, folder, model_max_length=trained.model.max_position_embeddings)
    special = special_tokens(Tokenizer.load(folder))
    write_huggingface(state, trained.model, trained.vocab_size, folder, special, trained.origin)
