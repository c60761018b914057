"""A ``tokenizer.json`` that the recipe names: whether it is one, and how large its ids are."""

import json
from collections.abc import Iterator
from pathlib import Path

from distrain.config.reading.sections import Path as SettingPath
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import PrepareStage, Recipe


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
            problem = tokenizer_problem(Path(file).expanduser()) if file is not None else None
            if problem is not None:
                yield Finding(name, path, f"{'.'.join(map(str, path))}: {problem}")


def tokenizer_problem(file: Path) -> str | None:
    """Say why a file is no tokenizer; ``None`` if it looks like one, or is not there."""
    try:
        vocabulary_size(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        return (
            f"found {file}, which is no tokenizer ({error}); expected a tokenizer.json of the "
            "tokenizers library, as `save_pretrained` writes it"
        )
    return None


def vocabulary_size(file: Path) -> int:
    """Return the first id that is above all of a tokenizer's.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no ``tokenizer.json``.
    """
    content = json.loads(file.read_bytes())
    model = content.get("model") if isinstance(content, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores, in the order of the ids
        ids = [len(vocabulary) - 1]
    elif isinstance(vocabulary, dict):
        ids = [number for number in vocabulary.values() if isinstance(number, int)]
    else:
        raise ValueError("there is no model with a vocab")  # noqa: TRY004  (a file, no argument)
    added = content.get("added_tokens")
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            ids.append(token["id"])
    return max(ids, default=-1) + 1
