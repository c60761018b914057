"""Whether a training stage can start from the model that it names, with the data it has. Pure."""

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath

from distrain.config.chats import PreferenceDataConfig, SftDataConfig
from distrain.config.data import DataConfig, PairsConfig, TokenizerConfig
from distrain.config.lineage import MODEL_KINDS, first_of, lineage_of, need_of
from distrain.config.lora import LoraConfig
from distrain.config.models import ModelConfig
from distrain.config.preference import PreferenceConfig
from distrain.config.pretrained.resolve import is_gguf
from distrain.config.reading.sections import Path
from distrain.config.reading.stage_parts import Finding, StageParts

Stages = Mapping[str, StageParts]


def check_start(stage: StageParts, stages: Stages) -> Iterator[Finding]:
    """Check where model, tokens and pairs of a stage come from."""
    if stage.needs is None:
        return
    if stage.kind not in MODEL_KINDS:
        if stage.folder is not None:
            yield from _check_folder(stage, stages)
        return
    model = stage.get("model", ModelConfig)
    source = need_of(stages, stage.name, MODEL_KINDS)
    has_folder = model is not None and model.from_pretrained is not None
    if has_folder and source is not None:
        message = f"the model comes from '{source}' or from this folder, not both; remove one"
        yield Finding(stage.name, ("model", "from_pretrained"), message, at_key=True)
        return
    if source is not None:
        yield from _check_same_sizes(stage, model, stages[source])
    if stage.kind == "sft":
        yield from _check_pairs(stage, stages)
    elif stage.kind == "preference":
        yield from _check_preferences(stage)
    elif has_folder or source is not None:
        yield from _check_tokenizer(stage, stages)


def _check_folder(stage: StageParts, stages: Stages) -> Iterator[Finding]:
    """Check the model of a stage that trains none."""
    source = need_of(stages, stage.name, MODEL_KINDS)
    if source is None:
        yield from _check_tokenizer(stage, stages)
    # Of the line that it needs, the defaults or an override may name it for every stage.
    elif stage.folder != stages[first_of(stages, source)].folder:
        message = f"the model comes from '{source}' or from this folder, not both; remove one"
        yield Finding(stage.name, ("model", "from_pretrained"), message, at_key=True)


def _check_same_sizes(
    stage: StageParts, model: ModelConfig | None, parent: StageParts
) -> Iterator[Finding]:
    base = parent.get("model", ModelConfig)
    if model is None or base is None or base.from_pretrained is not None:
        return  # the sizes of a folder are compared with it, where it lies
    for size in model.differences_from(base):
        message = (
            f"model.{'.'.join(size.path)}: found {size.found}, but '{parent.name}' trains "
            f"{size.wanted}; remove this one"
        )
        yield Finding(stage.name, ("model", *size.path), message)


def _check_pairs(stage: StageParts, stages: Stages) -> Iterator[Finding]:
    data = stage.get("data", SftDataConfig)
    if data is None or data.is_own:
        return
    lineage = lineage_of(stages, stage.name)
    name = lineage.data
    if name is None and stages[first_of(stages, stage.name)].folder is not None:
        message = (
            "with model.from_pretrained the pairs come from a file; "
            "set data.path to a JSONL file with prompt and answer"
        )
        yield Finding(stage.name, ("data",), message, at_key=True)
    pairs = stages[name].get("pairs", PairsConfig) if name is not None else None
    if pairs is not None and pairs.kind == "none":
        message = (
            f"stage '{stage.name}' has no pairs: '{name}' makes none; set {name}.pairs.kind to "
            "docstrings, or data.path to a JSONL file"
        )
        yield Finding(stage.name, ("data",), message, at_key=True)


def _check_preferences(stage: StageParts) -> Iterator[Finding]:
    """Check that pairs of answers are named, and that the base can speak as it did."""
    data = stage.get("data", PreferenceDataConfig)
    if data is not None and not data.is_own:
        message = (
            "no prepare stage makes pairs of a chosen and a rejected answer; set data.path to a "
            "file of them (docs/preferences.md)"
        )
        yield Finding(stage.name, ("data",), message, at_key=True)
    preference, lora = stage.get("preference", PreferenceConfig), stage.get("lora", LoraConfig)
    if preference is None or preference.reference != "live":
        return
    moved = "lora: null trains every parameter" if stage.trains_all else None
    if lora is not None and lora.modules_to_save:
        moved = f"lora.modules_to_save trains {lora.modules_to_save[0]} itself"
    if moved is not None:
        message = (
            f"preference.reference: found live, while {moved}; expected adapters alone, which a "
            "pass can leave out; set it to precomputed"
        )
        yield Finding(stage.name, ("preference", "reference"), message)


def _check_tokenizer(stage: StageParts, stages: Stages) -> Iterator[Finding]:
    """Check that the tokens are not certain to be another tokenizer's than the model's."""
    lineage = lineage_of(stages, stage.name)
    own, root = lineage.data, first_of(stages, stage.name)
    if own is None or _may_be_any(stages[own]):
        return
    folder = stages[root].folder
    if folder is not None:
        known = f"that of {folder}"
        file = folder if is_gguf(FilePath(folder)) else f"{folder.rstrip('/')}/tokenizer.json"
    else:
        made = lineage.up_to(root).data
        if made in (None, own):
            return
        known = f"that of '{made}'"
        file = _tokenizer_path(stages[str(made)]) or f"the tokenizer.json of '{made}'"
    if _tokenizer_path(stages[own]) is None:
        message = (
            f"'{own}' trains a tokenizer of its own, but the model was trained with {known}; set "
            f"{own}.tokenizer.path to {file}"
        )
        yield Finding(stage.name, _need_path(stage, own), message)


def _may_be_any(prepare: StageParts) -> bool:
    """Whether ready tokens may bring their tokenizer, or a mistake hides it."""
    data = prepare.get("data", DataConfig)
    return (
        data is None
        or bool(data.token_sources)
        or prepare.get("tokenizer", TokenizerConfig) is None
    )


def _tokenizer_path(prepare: StageParts) -> str | None:
    tokenizer = prepare.get("tokenizer", TokenizerConfig)
    return tokenizer.path if tokenizer is not None else None


def _need_path(stage: StageParts, name: str) -> Path:
    needs = stage.needs or ()
    return ("needs", needs.index(name)) if name in needs else ("needs",)
