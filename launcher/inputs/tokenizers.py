"""A ``tokenizer.json`` that the recipe names: whether it is one, and how large its ids are."""

import json
from collections.abc import Iterator
from pathlib import Path

from distrain.config.added_tokens import first_free_id
from distrain.config.huggingface import END_OF_TEXT, NAMING_FILES, read_json_object
from distrain.config.lineage import lineage_of
from distrain.config.pretrained import gguf_llama
from distrain.config.pretrained.gguf_file import read_gguf
from distrain.config.pretrained.resolve import MissingPackageError, is_gguf
from distrain.config.reading.sections import Path as SettingPath
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import EvaluateStage, PrepareStage, PretrainStage, Recipe, folder_of
from distrain.errors import PreflightError
from launcher.base_tokenizers import file_of_model, reads_alike, tokenizer_file


def check_tokenizers(recipe: Recipe) -> Iterator[Finding]:
    """Check the tokenizer of each prepare stage, and those of its ready tokens."""
    for name, stage in recipe.stages.items():
        if not isinstance(stage, PrepareStage):
            continue
        named: dict[SettingPath, str | None] = {("tokenizer", "path"): stage.tokenizer.path}
        for source, tokens in stage.data.token_sources.items():
            setting = stage.data.setting_of(source)
            named[(*setting.split("."), "tokenizer")] = tokens.tokenizer
        for path, file in named.items():
            try:
                found = None if file is None else tokenizer_file(file)
                problem = None if found is None else tokenizer_problem(found)
            except MissingPackageError:
                continue  # as of a file that is not here
            except PreflightError as error:
                problem = str(error)
            if problem is not None:
                yield Finding(name, path, f"{'.'.join(map(str, path))}: {problem}")


def check_same_tokenizers(recipe: Recipe) -> Iterator[Finding]:
    """Check that what goes on from a model reads the tokens of that model's tokenizer.

    Only of files that are there: what a stage of the run makes is compared when it has made it.
    """
    said: set[str | None] = set()
    for name, stage in recipe.stages.items():
        lineage = lineage_of(recipe.stages, name)
        reads = isinstance(stage, PretrainStage) or (
            isinstance(stage, EvaluateStage) and folder_of(stage) is not None
        )
        if not reads or lineage.data in said:
            continue
        known, own = file_of_model(recipe, name), recipe.stages.get(str(lineage.data))
        if known is None or not isinstance(own, PrepareStage) or own.tokenizer.path is None:
            continue
        try:
            found = tokenizer_file(own.tokenizer.path)
        except PreflightError:  # told where the tokenizer is checked
            continue
        if not reads_alike(recipe, name, found):
            message = (
                f"tokenizer.path: found {found}, another tokenizer than that of the model that "
                f"'{name}' starts from; set it to {known}"
            )
            said.add(lineage.data)
            yield Finding(str(lineage.data), ("tokenizer", "path"), message)


def tokenizer_problem(file: Path) -> str | None:
    """Say why a file is no tokenizer; ``None`` if it looks like one, or is not there."""
    try:
        vocabulary_size(file)
        return None if is_gguf(file) else _end_problem(file)
    except FileNotFoundError:
        return None
    except PreflightError as error:
        return str(error)
    except (OSError, ValueError, RecursionError) as error:
        return (
            f"found {file}, which is no tokenizer ({error}); expected a tokenizer.json of the "
            "tokenizers library, as `save_pretrained` writes it"
        )


def _end_problem(file: Path) -> str | None:
    """Say that nothing names what ends a document; whether its id is there, is asked later.

    Raises:
        PreflightError: A file that may name it is damaged.
    """
    added = json.loads(file.read_bytes()).get("added_tokens") or ()
    if any(isinstance(token, dict) and token.get("content") == END_OF_TEXT for token in added):
        return None
    for beside in (file.parent / name for name in NAMING_FILES):
        if not beside.exists():
            continue
        fields = read_json_object(beside)
        if fields.get("eos_token") or fields.get("eos_token_id") is not None:
            return None
    return (
        f"found {file} without an end-of-text token; expected the control token {END_OF_TEXT}, or "
        'a tokenizer_config.json that names one; put one with {"eos_token": "..."} beside it'
    )


def vocabulary_size(file: Path) -> int:
    """Return the first id that is above all of a tokenizer's.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no ``tokenizer.json``.
        PreflightError: It is a GGUF file without one.
    """
    if is_gguf(file) and file.exists():
        return gguf_llama.vocabulary_size(read_gguf(file))
    return first_free_id(json.loads(file.read_bytes()))
