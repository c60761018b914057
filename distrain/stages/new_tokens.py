"""Tokens that a stage of fine-tuning adds: its tokenizer, in its folder, and the model's rows."""

import logging
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distrain.checkpoint.agreement import on_first
from distrain.checkpoint.layout import committed
from distrain.config.added_tokens import ADD_TOKENS, AddedTokens
from distrain.config.reading.check_new_tokens import untrained_tokens
from distrain.config.recipe import FinetuneStage
from distrain.data.tokenizer.growing import grow_tokenizer
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import PreflightError
from distrain.models import model_on_meta
from distrain.models.vocabulary import vocabulary_axes
from distrain.parallel.collectives import HostGroup
from distrain.runs.sums import SUMS, find_damage
from distrain.stages.base_model import BaseModel
from distrain.stages.context import StageContext
from distrain.stages.sft_samples import ExampleSamples

log = logging.getLogger(__name__)


def with_new_tokens(
    context: StageContext, stage: FinetuneStage, base: BaseModel, host: HostGroup
) -> BaseModel:
    """Return the base with the tokens that the stage adds, if it adds any. Collective.

    Raises:
        DataError: A name cannot become a token.
        RecipeError: Their rows would not be trained.
        PreflightError: The stage has trained with other tokens.
    """
    if not stage.data.add_tokens:
        return base
    planned = on_first(host, partial(_keep_tokenizer, context, stage, base.tokenizer))
    found = base.with_tokens_of(context.folder.grown_tokenizer)
    for name, number in planned.known.items():
        log.info("%s: %r is a token already, with the id %d", ADD_TOKENS, name, number)
    if found.growth is None:
        return found
    model = model_on_meta(found.model, found.vocab_size)
    names = list(vocabulary_axes(found.model, found.vocab_size))
    tied = next(filter(model.is_tied, names), None)
    problem = untrained_tokens(stage, [name for name in names if name != tied], tied)
    if problem is not None:
        raise problem
    log.info(
        "%s: %d new tokens, ids %d to %d; rows of the embedding: %d, before %d; each begins with "
        "the mean of the %d rows of tokens",
        ADD_TOKENS,
        len(planned.new),
        found.growth.known,
        found.growth.stop - 1,
        found.vocab_size,
        base.vocab_size,
        found.growth.known,
    )
    return found


def _keep_tokenizer(context: StageContext, stage: FinetuneStage, base: Path) -> AddedTokens:
    """Make the stage's tokenizer; one that it has trained with must be as it was."""
    folder = context.folder.grown_tokenizer
    if not committed(context.folder.checkpoints):
        return grow_tokenizer(base, stage.data.add_tokens, folder)
    with tempfile.TemporaryDirectory() as scratch:
        again = Path(scratch) / folder.name
        planned = grow_tokenizer(base, stage.data.add_tokens, again)
        is_same = _sums(again) == _sums(folder) and find_damage(folder) is None
    if not is_same:
        raise PreflightError(
            str(folder),
            "another tokenizer than that of its base and data.add_tokens, or a damaged one",
            "the one that the stage has trained with so far",
            "Put base and data.add_tokens back, or start a new run (name=...).",
        )
    return planned


def _sums(folder: Path) -> str | None:
    file = folder / SUMS
    return file.read_text(encoding="utf-8") if file.is_file() else None


def count_new_tokens(
    base: BaseModel, tokenizer: Tokenizer, splits: Mapping[str, ExampleSamples]
) -> dict[str, Any]:
    """Count how often the train examples hold each new token; warn of one that they do not.

    Returns:
        Name -> id, occurrences, and how many of them are trained to be written; empty without new
        tokens.
    """
    if base.growth is None:
        return {}
    known, new = base.growth.known, base.growth.stop - base.growth.known
    seen, trained = np.zeros(new, np.int64), np.zeros(new, np.int64)
    for examples in splits["train"].fitted.values():
        for example in examples:
            is_new = example.ids >= known
            seen += np.bincount(example.ids[is_new] - known, minlength=new)
            trained += np.bincount(example.ids[is_new & example.is_trained] - known, minlength=new)
    counts = {
        tokenizer.name_of(known + number): {
            "id": known + number,
            "seen": int(seen[number]),
            "trained": int(trained[number]),
        }
        for number in range(new)
    }
    for name, count in counts.items():
        if not count["seen"]:
            log.warning(
                "%s: no example holds %r: only a chat template writes it, and a name in a content "
                "stays text",
                ADD_TOKENS,
                name,
            )
    return {"added_tokens": counts}
