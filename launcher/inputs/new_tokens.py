"""The tokens that a stage adds: what becomes of each name, and whether their rows are trained."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from distrain.config.added_tokens import (
    AddedTokens,
    TokenNameError,
    first_free_id,
    plan_tokens,
    with_tokens,
)
from distrain.config.huggingface import END_OF_TEXT, load_config
from distrain.config.lineage import lineage_of
from distrain.config.pretrained.resolve import is_gguf, resolve_pretrained
from distrain.config.reading.check_new_tokens import untrained_tokens
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import FinetuneStage, Recipe, TrainStage
from distrain.errors import PreflightError
from launcher.inputs.tokenizers import file_of_model
from launcher.model_counts import count_folder, count_made_model
from launcher.text import plural

SETTING = ("data", "add_tokens")


def check_new_tokens(recipe: Recipe) -> Iterator[Finding]:
    """Judge the names against the base's tokenizer, and what the stage trains of their rows."""
    for name, stage in recipe.stages.items():
        if not isinstance(stage, FinetuneStage) or not stage.data.add_tokens:
            continue
        try:
            planned = _planned(recipe, name)
        except TokenNameError as error:
            yield Finding(name, SETTING, f"data.add_tokens: {error}; choose another name")
            continue
        if planned is not None:
            message = f"data.add_tokens: {_told(planned)}"
            yield Finding(name, SETTING, message, is_note=True)
        # Of a tokenizer that the run makes, nothing else is known yet.
        names = set(stage.data.add_tokens) - {END_OF_TEXT}
        if names if planned is None else planned.new:
            yield from _check_trained(recipe, name, stage)


def _planned(recipe: Recipe, name: str) -> AddedTokens | None:
    """Return what becomes of a stage's names; ``None`` where its tokenizer is not here.

    Raises:
        TokenNameError: A name cannot become a token.
    """
    content = _tokenizer_of(recipe, name)
    planned = None
    for link in lineage_of(recipe.stages, name).trained:
        stage = recipe.stages[link.stage]
        if content is not None and isinstance(stage, FinetuneStage):
            planned = plan_tokens(content, stage.data.add_tokens)
            content = with_tokens(content, planned.new)
    return planned


def _tokenizer_of(recipe: Recipe, name: str) -> Mapping[str, Any] | None:
    """Read the tokenizer that a line begins with; what is wrong with it is told elsewhere."""
    file = file_of_model(recipe, name)
    if file is None or is_gguf(file):
        return None
    try:
        content: Mapping[str, Any] = json.loads(file.read_bytes())
        first_free_id(content)
    except (OSError, ValueError, RecursionError):
        return None
    return content


def _told(planned: AddedTokens) -> str:
    parts = []
    if planned.new:
        ids = sorted(planned.new.values())
        span = f"the id {ids[0]}" if len(ids) == 1 else f"the ids {ids[0]} to {ids[-1]}"
        parts.append(f"{plural(len(ids), 'new token')} with {span}")
    if planned.known:
        there = ", ".join(f"{name} ({number})" for name, number in planned.known.items())
        parts.append(f"tokens already, which stay as they are: {there}")
    return "; ".join(parts)


def _check_trained(recipe: Recipe, name: str, stage: FinetuneStage) -> Iterator[Finding]:
    found = _tables(recipe, name)
    problem = None if found is None else untrained_tokens(stage, *found)
    if problem is not None:
        yield Finding(name, tuple(problem.where.split(".")), str(problem))


def _tables(recipe: Recipe, name: str) -> tuple[list[str], str | None] | None:
    """Return the names of embedding and output layer, and the latter's if it is tied.

    ``None`` where nothing here says it: the stage asks again once it has built the model.
    """
    root = str(lineage_of(recipe.stages, name).root)
    first = recipe.stages[root]
    assert isinstance(first, TrainStage), "what a model comes from has trained it"
    model, written = first.model, first.model.from_pretrained
    if written is not None:
        try:
            folder = resolve_pretrained(written)
            model, _ = load_config(folder)
        except PreflightError:  # told where the model is checked
            return None
        counts = None if model.counts_itself else count_folder(folder)
    else:
        counts = count_made_model(recipe, root)
    smaller, larger = model.tensor_shapes(2), model.tensor_shapes(3)
    if smaller is not None and larger is not None:
        tables = [table for table, shape in smaller.items() if shape != larger[table]]
        return tables, "lm_head.weight" if model.tie_word_embeddings else None
    if counts is None or not counts.vocabulary_names:
        return None
    return list(counts.vocabulary_names), counts.tied_name
