"""The tokens that a stage adds: what becomes of each name, and whether their rows are trained."""

from collections.abc import Iterator

from distrain.config.added_tokens import AddedTokens, TokenNameError, plan_tokens
from distrain.config.huggingface import OWN_CONTROL_TOKENS, load_config
from distrain.config.lineage import lineage_of
from distrain.config.pretrained.resolve import resolve_pretrained
from distrain.config.reading.check_new_tokens import untrained_tokens
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import FinetuneStage, Recipe, TrainStage
from distrain.errors import PreflightError
from launcher.base_tokenizers import tokenizer_before
from launcher.model_counts import count_folder, count_made_model
from launcher.text import plural

SETTING = ("data", "add_tokens")


def check_new_tokens(recipe: Recipe) -> Iterator[Finding]:
    """Judge the names against the base's tokenizer, and what the stage trains of their rows."""
    for name, stage in recipe.stages.items():
        if not isinstance(stage, FinetuneStage) or not stage.data.add_tokens:
            continue
        content = tokenizer_before(recipe, name)
        try:
            names = stage.data.add_tokens
            planned = None if content is None else plan_tokens(content, names)
        except TokenNameError as error:
            yield Finding(name, SETTING, f"data.add_tokens: {error}; choose another name")
            continue
        if planned is not None:
            message = f"data.add_tokens: {_told(planned)}"
            yield Finding(name, SETTING, message, is_note=True)
        # Of a tokenizer that the run makes, nothing else is known yet.
        if set(names).difference(OWN_CONTROL_TOKENS) if planned is None else planned.new:
            yield from _check_trained(recipe, name, stage)


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
