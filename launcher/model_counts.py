"""What a model of transformers counts, asked of a process that imports it; remembered here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.config.lineage import lineage_of
from distrain.config.models import ModelConfig
from distrain.config.recipe import PrepareStage, Recipe, TrainStage
from launcher.runtime_questions import ask_runtime

ANY_VOCABULARY = 1024
"""Rows for a model whose tokenizer is not there yet: its other sizes do not depend on them."""


@dataclass(frozen=True)
class ModelCounts:
    """What a model counts.

    Args:
        parameters: Elements; ``None`` where nobody here can say.
        flops_per_token: Of forward and backward; ``None`` likewise.
        problem: Why there can be no such model, or none that is trained: what was found, what is
            expected, the remedy.
        adaptable_layers: Those that adapters may be for; empty: nobody here can say.
        parameter_names: Of all; empty likewise.
        config: All settings of a family of transformers, with this release's defaults; ``None``
            likewise.
        vocabulary_names: Of the parameters with a row for each token; empty likewise.
        tied_name: Of an output layer that is one of these.
    """

    parameters: int | None = None
    flops_per_token: float | None = None
    problem: str | None = None
    adaptable_layers: tuple[str, ...] = ()
    parameter_names: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    vocabulary_names: tuple[str, ...] = ()
    tied_name: str | None = None


_known: dict[str, ModelCounts] = {}


def count_model(model: ModelConfig, vocab_size: int, sequence_length: int) -> ModelCounts:
    """Count a model: by its section where that knows, else in a process of its own.

    Where torch or transformers is not installed, as on some login nodes, nothing is known.
    """
    if model.counts_itself:
        return ModelCounts(
            model.num_parameters(vocab_size), model.flops_per_token(vocab_size, sequence_length)
        )
    section = model.model_dump(mode="json") | {"from_pretrained": None}
    asked = {"model": section, "vocab_size": vocab_size, "sequence_length": sequence_length}
    question = json.dumps(asked, sort_keys=True)
    if question not in _known:
        _known[question] = _read(_ask(question))
    return _known[question]


def count_folder(folder: Path) -> ModelCounts:
    """Let the library compare a folder's weights with its sizes, and judge the family.

    Of the weights only the headers are read; operations are not counted.
    """
    question = json.dumps({"folder": str(folder.absolute())})
    if question not in _known:
        _known[question] = _read(_ask(question))
    return _known[question]


def count_made_model(recipe: Recipe, name: str) -> ModelCounts | None:
    """Count the model of transformers that begins with random weights in a stage, if it does."""
    stage = recipe.stages[name]
    if not isinstance(stage, TrainStage) or stage.model.counts_itself:
        return None
    if stage.model.from_pretrained is not None or lineage_of(recipe.stages, name).root != name:
        return None
    rows = vocabulary_of_data(recipe, name) or ANY_VOCABULARY
    return count_model(stage.model, rows, stage.training.sequence_length)


def vocabulary_of_data(recipe: Recipe, name: str) -> int | None:
    """Return the rows of the vocabulary that a stage's own data bring, if the recipe says it."""
    data = lineage_of(recipe.stages, name).up_to(name).data
    prepare = recipe.stages.get(str(data))
    if not isinstance(prepare, PrepareStage) or prepare.tokenizer.path is not None:
        return None
    return prepare.tokenizer.vocab_size


def _ask(question: str) -> Mapping[str, object]:
    return ask_runtime("count-models", question)


def _read(answer: Mapping[str, object]) -> ModelCounts:
    parameters, flops = answer.get("parameters"), answer.get("flops_per_token")
    problem, config = answer.get("problem"), answer.get("config")
    tied = answer.get("tied_name")
    return ModelCounts(
        parameters if isinstance(parameters, int) else None,
        flops if isinstance(flops, float) else None,
        problem if isinstance(problem, str) else None,
        _words(answer, "adaptable_layers"),
        _words(answer, "parameter_names"),
        config if isinstance(config, dict) else None,
        _words(answer, "vocabulary_names"),
        tied if isinstance(tied, str) else None,
    )


def _words(answer: Mapping[str, object], name: str) -> tuple[str, ...]:
    words = answer.get(name)
    return tuple(map(str, words)) if isinstance(words, list) else ()
