"""The ``export`` stage: a trained model as a folder that loads without distrain."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from distrain.config.models import ModelConfig
from distrain.config.recipe import SftStage
from distrain.config.training import LoraConfig
from distrain.data.tokenizer.huggingface import save_huggingface as save_tokenizer
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.finetune.lora import merge, save_adapter
from distrain.models.huggingface import write_huggingface
from distrain.models.origin import Origin, SpecialTokens
from distrain.parallel.collectives import HostGroup
from distrain.runs.durable import whole_folder
from distrain.runs.sums import write_sums
from distrain.stages.base_model import find_base, read_adapter, to_float32
from distrain.stages.context import Outcome, StageContext, lineage_of, typed
from distrain.stages.products import build_on

BASE_FOLDER = "base"
ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True)
class TrainedModel:
    """What training left behind, as whole tensors.

    Args:
        base_state: Parameters by name, before any fine-tuning.
        model: Sizes.
        vocab_size: Rows of the embedding.
        adapter_state: Adapters under the names of ``lora.plain_name``; ``None`` without.
        lora: With which they were made.
        origin: What else the folder of the base says; ``None`` for a model trained here.
    """

    base_state: Mapping[str, Tensor]
    model: ModelConfig
    vocab_size: int
    adapter_state: Mapping[str, Tensor] | None = None
    lora: LoraConfig | None = None
    origin: Origin | None = None


def run_stage(context: StageContext) -> Outcome:
    """Export what the stage that this one needs has trained."""
    trained, tokenizer = read_trained(context)
    export_huggingface(trained, tokenizer, context.folder.huggingface)
    files = [path for path in context.folder.huggingface.rglob("*") if path.is_file()]
    return Outcome(
        {
            "folder": str(context.folder.huggingface.relative_to(context.run.root)),
            "parameters": sum(tensor.numel() for tensor in trained.base_state.values()),
            "size_bytes": sum(path.stat().st_size for path in files),
            "has_adapter": trained.adapter_state is not None,
        }
    )


def read_trained(context: StageContext) -> tuple[TrainedModel, Path]:
    """Read the whole tensors of a line of stages, and find its tokenizer."""
    sources = build_on(context, HostGroup())
    base = find_base(context, sources)
    sft = lineage_of(context.recipe, context.name).sft
    adapter = None if sft is None else read_adapter(sources[sft])
    lora = None if sft is None else typed(context.recipe, sft, SftStage).lora
    # Values that a user's folder holds are kept as they are, and written so again.
    state = base.read() if base.origin else to_float32(base.read())
    adapter = None if adapter is None else to_float32(adapter)
    trained = TrainedModel(state, base.model, base.vocab_size, adapter, lora, base.origin)
    return trained, base.tokenizer


def export_huggingface(trained: TrainedModel, tokenizer_json: Path, folder: Path) -> None:
    """Write a Hugging Face folder: configuration, safetensors, tokenizer.

    With adapters, ``folder`` holds the merged model, ``folder/base`` the one before fine-tuning
    and ``folder/adapter`` the adapters, for ``PeftModel.from_pretrained(base model, adapter)``.

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
            save_adapter(trained.adapter_state, trained.lora, BASE_FOLDER, partial / ADAPTER_FOLDER)
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
