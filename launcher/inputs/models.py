"""The model that training starts from, a folder or a file: can it be read, does it fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distrain.config.huggingface import (
    CONFIG_FILE,
    HUB_NAME,
    TOKENIZER_FILE,
    config_file,
    load_config,
)
from distrain.config.lineage import lineage_of
from distrain.config.models import ModelConfig
from distrain.config.pretrained.resolve import MissingPackageError, is_gguf, resolve_pretrained
from distrain.config.reading.check_adapters import adapter_findings
from distrain.config.reading.check_frozen import frozen_findings
from distrain.config.reading.check_groups import group_findings
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import (
    EvaluateStage,
    ExportStage,
    FinetuneStage,
    Recipe,
    Stage,
    TrainStage,
    folder_of,
)
from distrain.errors import PreflightError
from launcher.inputs.tokenizers import tokenizer_problem, vocabulary_size
from launcher.inputs.weights import weights_problem_of
from launcher.model_counts import ModelCounts, count_folder, count_made_model

SETTING = ("model", "from_pretrained")


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose ``config.json`` could be read, or a GGUF file."""

    path: Path
    model: ModelConfig
    vocab_size: int
    """Rows of the embedding."""


ModelCheck = Callable[[str, TrainStage, ModelFolder], Iterator[Finding]]


def check_models(recipe: Recipe) -> Iterator[Finding]:
    """Check the model of each stage that starts from one, and what goes on from it."""
    for name, stage in recipe.stages.items():
        written = folder_of(stage)
        if written is not None:
            yield from _check_model(recipe, name, written)
        elif isinstance(stage, EvaluateStage) and stage.sequence_length is not None:
            message = (
                f"sequence_length: found {stage.sequence_length} without model.from_pretrained; a "
                "trained model is measured with the training.sequence_length of its own stage; "
                "remove this one"
            )
            yield Finding(name, ("sequence_length",), message)


def check_made_models(recipe: Recipe) -> Iterator[Finding]:
    """Let the library build and run, without values, each model of transformers that begins here.

    What its families ask of their settings together, and which of their layers attend through its
    interface, no table holds.
    """
    for name, stage in recipe.stages.items():
        counts = count_made_model(recipe, name)
        if counts is None or not isinstance(stage, TrainStage):
            continue
        if counts.problem is not None:
            yield Finding(name, ("model", "config"), f"model.config: found {counts.problem}")
        for other, of in recipe.stages.items():
            if isinstance(of, TrainStage) and lineage_of(recipe.stages, other).root == name:
                yield from _check_names(other, of, stage.model, counts)


def _check_model(recipe: Recipe, name: str, written: str) -> Iterator[Finding]:
    try:
        folder = resolve_pretrained(written)
    except MissingPackageError:
        return  # as of a folder that is not here
    except PreflightError as error:
        yield Finding(name, SETTING, f"model.from_pretrained: {error}")
        return
    if not folder.exists():
        not_here = hub_model_problem(written)
        if not_here is not None:
            yield Finding(name, SETTING, f"model.from_pretrained: {not_here}")
        return  # whether the folder is on this machine is asked when the run is to start here
    try:
        model, vocab_size = load_config(folder)
        problem = None if is_gguf(folder) else weights_problem_of(folder, model, vocab_size)
    except PreflightError as error:
        yield Finding(name, SETTING, f"model.from_pretrained: {error}")
        return
    if problem is not None:
        yield Finding(name, SETTING, f"model.from_pretrained: {problem}")
    found = ModelFolder(folder, model, vocab_size)
    for other, stage in recipe.stages.items():
        if isinstance(stage, TrainStage) and lineage_of(recipe.stages, other).root == name:
            for check in MODEL_CHECKS:
                yield from check(other, stage, found)
    yield from _check_given(name, recipe.stages[name], found)


def _check_given(name: str, stage: Stage, folder: ModelFolder) -> Iterator[Finding]:
    """Check what a stage that trains nothing reads of its folder."""
    if isinstance(stage, EvaluateStage | ExportStage):
        yield from _check_tokenizer(name, stage, folder)
    if isinstance(stage, EvaluateStage) and stage.sequence_length is not None:
        yield from _too_long(name, ("sequence_length",), stage.sequence_length, folder)


def hub_model_problem(name: str) -> str | None:
    """Say of what is no folder here that it looks like a model of the hub, if it does."""
    if not HUB_NAME.fullmatch(name):
        return None
    folder = name.rpartition("/")[2]
    return (
        f"found '{name}', which is no folder here and looks like a name on the Hugging Face hub; "
        f"expected a folder; download it (`hf download {name} --local-dir {folder}`) and write "
        f"./{folder}"
    )


def _check_tokenizer(
    name: str, stage: TrainStage | EvaluateStage | ExportStage, folder: ModelFolder
) -> Iterator[Finding]:
    if stage.model.from_pretrained is None:
        return  # said once, of the stage that names the folder
    file = folder.path if is_gguf(folder.path) else folder.path / TOKENIZER_FILE
    problem = tokenizer_problem(file)
    if not file.is_file():
        problem = (
            f"found {folder.path} without {TOKENIZER_FILE}; expected it beside {CONFIG_FILE}; a "
            "model that has a SentencePiece file only needs converting first"
        )
    if problem is not None:
        yield Finding(name, SETTING, f"model.from_pretrained: {problem}")
        return
    ids, rows = vocabulary_size(file), folder.vocab_size
    if ids > rows:
        yield Finding(
            name,
            SETTING,
            f"model.from_pretrained: found ids up to {ids - 1} in {file}; expected less than "
            f"{rows}, the rows of the embedding; take the tokenizer that the model was trained "
            "with",
        )


def _check_sizes(name: str, stage: TrainStage, folder: ModelFolder) -> Iterator[Finding]:
    """Compare sizes that a stage states beside those of the folder, which are the model's."""
    own, theirs = stage.model, folder.model.every_size()
    for path, found in own.stated().items():
        if path in theirs and theirs[path] == found:
            continue
        setting = f"model.{'.'.join(path)}"
        # Beside from_pretrained it may come from the defaults of all stages, and does no harm.
        is_note = own.from_pretrained is not None
        says = f"says {theirs[path]}" if path in theirs else "has no such setting"
        message = (
            f"{setting} has no effect: the model is that of {folder.path}"
            if is_note
            else f"{setting}: found {found}, but {config_file(folder.path)} {says}; remove this one"
        )
        yield Finding(name, ("model", *path), message, is_note=is_note)


def _check_rates(name: str, stage: TrainStage, folder: ModelFolder) -> Iterator[Finding]:
    """Say which dropout a section of another family states in vain."""
    own, model = stage.model, folder.model
    if type(own) is type(model):
        return
    for field in sorted(own.dropout_fields()):
        if getattr(own, field) != type(own).model_fields[field].default:
            message = (
                f"model.{field} has no effect: the model of {folder.path} is {model.family_name}, "
                "whose own settings of dropout go into model.config, beside model_type"
            )
            yield Finding(name, ("model", field), message, is_note=True)


def _check_positions(name: str, stage: TrainStage, folder: ModelFolder) -> Iterator[Finding]:
    setting = ("training", "sequence_length")
    yield from _too_long(name, setting, stage.training.sequence_length, folder)


def _too_long(
    name: str, setting: tuple[str, ...], length: int, folder: ModelFolder
) -> Iterator[Finding]:
    positions = folder.model.max_position_embeddings
    if length > positions:
        yield Finding(
            name,
            setting,
            f"{'.'.join(setting)}: found {length}; expected at most {positions}, the "
            f"max_position_embeddings of {config_file(folder.path)}",
        )


def _check_folder_names(name: str, stage: TrainStage, folder: ModelFolder) -> Iterator[Finding]:
    """Check the layers that are adapted, and names of parameters, against the folder's own."""
    asked = ModelCounts() if folder.model.counts_itself else count_folder(folder.path)
    yield from _check_names(name, stage, folder.model, asked)


def _check_names(
    name: str, stage: TrainStage, model: ModelConfig, asked: ModelCounts
) -> Iterator[Finding]:
    """Check names by what the section knows, or else by what the library was asked."""
    if isinstance(stage, FinetuneStage) and stage.lora is not None:
        layers = model.adaptable_layers or asked.adaptable_layers
        if layers:
            yield from adapter_findings(name, stage.lora, model, layers, asked.parameter_names)
    else:
        names = model.parameter_names() or asked.parameter_names
        yield from frozen_findings(name, stage.training, names)
        trained = [known for known in names if not stage.training.is_frozen(known)]
        yield from group_findings(name, stage.optimizer, trained)


MODEL_CHECKS: tuple[ModelCheck, ...] = (
    _check_tokenizer,
    _check_sizes,
    _check_positions,
    _check_folder_names,
    _check_rates,
)
"""What a folder that can be read has to fit; further families are lines of ``FAMILIES`` in
``distrain.config.models``."""
