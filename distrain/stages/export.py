"""The ``export`` stage: a trained model as a folder that loads without distrain."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from distrain.config.lora import LoraConfig
from distrain.config.models import ModelConfig
from distrain.config.recipe import ExportStage
from distrain.data.chats.encoder import ChatEncoder
from distrain.data.tokenizer.huggingface import save_huggingface as save_tokenizer
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.finetune.adapter_files import save_adapter
from distrain.finetune.card import model_card
from distrain.finetune.merged import MergedWeights, transposed_layers
from distrain.models import model_on_meta
from distrain.models.huggingface import as_exported, write_huggingface
from distrain.models.origin import Origin, SpecialTokens
from distrain.models.weights.source import TensorWeights, WeightSource, read_all
from distrain.parallel.collectives import HostGroup
from distrain.runs.durable import whole_folder
from distrain.runs.sums import write_sums
from distrain.stages.base_model import BaseModel, to_float32
from distrain.stages.context import Outcome, StageContext, typed
from distrain.stages.found_model import find_model
from distrain.stages.products import build_on
from distrain.stages.reload import Reload, compare_reloaded

BASE_FOLDER = "base"
ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True)
class TrainedModel:
    """What training left behind.

    Args:
        base: Parameters by name, before the last stage if that is fine-tuning.
        model: Sizes.
        vocab_size: Rows of the embedding.
        adapter_state: Whole adapters under the names of ``lora.plain_name``; ``None`` without.
        lora: With which they were made.
        origin: What else the user's folder says; ``None`` for a model made here.
        before: Sizes and words of the base in a folder of its own, where the last stage has untied
            its output layer.
    """

    base: WeightSource
    model: ModelConfig
    vocab_size: int
    adapter_state: Mapping[str, Tensor] | None = None
    lora: LoraConfig | None = None
    origin: Origin | None = None
    before: tuple[ModelConfig, Origin | None] | None = None

    @property
    def merged(self) -> WeightSource:
        """The whole model: with the adapters, if there are any."""
        if self.adapter_state is None:
            return self.base
        assert self.lora is not None, "adapters come with the settings that made them"
        transposed = transposed_layers(self.model, self.vocab_size)
        return MergedWeights(self.base, self.adapter_state, self.lora, transposed)


def run_stage(context: StageContext) -> Outcome:
    """Export what the stage that this one needs has trained."""
    trained, whole = read_trained(context)
    reload = typed(context.recipe, context.name, ExportStage).reload
    reloaded = export_huggingface(
        trained, whole.tokenizer, context.folder.huggingface, reload=reload
    )
    files = [path for path in context.folder.huggingface.rglob("*") if path.is_file()]
    return Outcome(
        {
            "folder": str(context.folder.huggingface.relative_to(context.run.root)),
            "parameters": model_on_meta(trained.model, trained.vocab_size).num_parameters(),
            "size_bytes": sum(path.stat().st_size for path in files),
            "has_adapter": trained.adapter_state is not None,
            "reload": reloaded.to_json(),
        }
    )


def read_trained(context: StageContext) -> tuple[TrainedModel, BaseModel]:
    """Open what a line of stages has trained.

    Returns:
        It, with the last stage's adapters apart; and where it lies.
    """
    whole = find_model(context, context.lineage, build_on(context, HostGroup()))
    adapter, base = None, whole
    if context.lineage.tuned is not None:
        adapter, base = whole.adapters[-1], whole.before_last()
    # Values that a user's folder holds are kept as they are, and written so again.
    source = base.source() if base.origin else to_float32(base.source())
    trained = TrainedModel(source, base.model, base.vocab_size, origin=base.origin)
    if whole.is_untied_last:
        trained = replace(trained, before=whole.tied)
    if adapter is not None:
        matrices = read_all(to_float32(TensorWeights(adapter.read())))
        trained = replace(trained, adapter_state=matrices, lora=adapter.lora)
    return trained, whole


def export_huggingface(
    trained: TrainedModel, tokenizer_json: Path, folder: Path, *, reload: bool = False
) -> Reload:
    """Write a Hugging Face folder: configuration, safetensors, tokenizer.

    With adapters, ``folder`` holds the merged model, ``folder/base`` the one that the last
    fine-tuning started from and ``folder/adapter`` the adapters, for
    ``PeftModel.from_pretrained(base model, adapter)``.

    Each folder holds the digests of its files besides.

    Args:
        trained: The model.
        tokenizer_json: The tokenizer it was trained with: the file, or a folder that holds it.
        folder: Appears when it is complete; one that is there is replaced.
        reload: Compare it, before it appears, with what transformers makes of it.

    Raises:
        ValueError: The states do not belong together or not to a model of these sizes.
        TrainingError: As of ``compare_reloaded``.
    """
    with whole_folder(folder) as partial:
        if trained.adapter_state is not None:
            assert trained.lora is not None, "adapters come with the settings that made them"
            model, origin = trained.before or (trained.model, trained.origin)
            base = replace(trained, model=model, origin=origin)
            _write(base, trained.base, tokenizer_json, partial / BASE_FOLDER)
            save_adapter(
                trained.adapter_state,
                trained.lora,
                model_on_meta(trained.model, trained.vocab_size),
                BASE_FOLDER,
                partial / ADAPTER_FOLDER,
            )
        _write(trained, trained.merged, tokenizer_json, partial)
        if trained.lora is not None:
            forms = as_exported(trained.merged, trained.origin).forms.values()
            dtypes = {form.dtype for form in forms}
            card = model_card(trained.lora, dtypes, BASE_FOLDER, ADAPTER_FOLDER)
            (partial / "README.md").write_text(card, encoding="utf-8")
        for place in (partial, *(path for path in partial.iterdir() if path.is_dir())):
            write_sums(place)
        if not reload:
            return Reload(False, "export.reload is false")
        exported = as_exported(trained.merged, trained.origin)
        return compare_reloaded(partial, exported, trained.model, trained.vocab_size)


def special_tokens(folder: Path) -> SpecialTokens:
    """Return the ids that transformers needs to start, end and pad a text.

    Args:
        folder: Holds ``tokenizer.json`` and what describes it.
    """
    tokenizer = Tokenizer.load(folder)
    ends, prefix = {tokenizer.eos_id}, tokenizer.prefix_ids
    # What stops a turn, too: otherwise generation would go on after each answer. A template that
    # lays out no pair, as of a model for tools alone, is the user's own: nothing was trained by it.
    with contextlib.suppress(DataError):
        ends |= ChatEncoder(folder, tokenizer).stop_ids
    eos = [tokenizer.eos_id, *sorted(ends - {tokenizer.eos_id})]
    return SpecialTokens(
        bos_token_id=prefix[0] if prefix else None,
        eos_token_id=eos[0] if len(eos) == 1 else eos,
        pad_token_id=tokenizer.pad_id,
    )


def _write(
    trained: TrainedModel, weights: WeightSource, tokenizer_json: Path, folder: Path
) -> None:
    save_tokenizer(
        tokenizer_json,
        folder,
        model_max_length=trained.model.max_position_embeddings,
        verbatim=trained.origin is not None,
    )
    special = special_tokens(folder)
    write_huggingface(weights, trained.model, trained.vocab_size, folder, special, trained.origin)
