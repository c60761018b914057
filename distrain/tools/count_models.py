"""Count models for the launcher, which has no torch: one JSON list in, one out.

In: mappings with ``model`` (a section of a recipe), ``vocab_size`` and ``sequence_length``, or with
``folder``, whose weights are compared with its sizes by their headers. Out, in the same order:
``parameters``, ``flops_per_token`` and ``config`` (not of a folder: all settings of the family),
``adaptable_layers``, ``parameter_names``, ``vocabulary_names`` and ``tied_name``, or ``problem``:
why there can be no such model, or why it could not be trained.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from distrain.config.models import ModelConfig, TransformersConfig
from distrain.errors import DistrainError
from distrain.models import model_on_meta
from distrain.models.causal_lm import CausalLM
from distrain.models.huggingface import open_huggingface
from distrain.models.init import rule_of
from distrain.models.transformers.construction import whole_config
from distrain.models.vocabulary import vocabulary_axes


def run_command() -> int:
    """Answer what is asked on standard input."""
    # What libraries say of defaults is not for whoever asked.
    logging.disable(logging.WARNING)
    asked = json.load(sys.stdin)
    sys.stdout.write(json.dumps([answer(one) for one in asked]) + "\n")
    return 0


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Count one model, or say why there is none."""
    try:
        if "folder" in asked:
            return count_folder(Path(asked["folder"]))
        return count(asked)
    except DistrainError as error:
        return {"problem": f"{error.found}; expected {error.expected}. {error.remedy}"}
    # Libraries refuse settings by whatever they meet first; each is a mistake of the recipe.
    except Exception as error:  # noqa: BLE001
        found = f"{type(error).__name__}: {_last_line(error)}"
        return {"problem": f"{found}; expected settings that go together in this family"}


def count_folder(folder: Path) -> dict[str, Any]:
    """Open a folder, which compares its weights with its sizes, and count them."""
    found = open_huggingface(folder)
    model = model_on_meta(found.config, found.vocab_size)
    _require_trainable(model)
    return {
        "parameters": model.num_parameters(),
        **_names(model),
    }


def count(asked: dict[str, Any]) -> dict[str, Any]:
    """Build one model without values, and count it."""
    section = dict(asked["model"])
    form = ModelConfig.forms()[section["name"]]
    config, vocab_size = form.model_validate(section), asked["vocab_size"]
    model = model_on_meta(config, vocab_size)
    for name, parameter in model.named_parameters():
        rule_of(model, name, parameter.shape)
    counted = {
        "parameters": model.num_parameters(),
        "flops_per_token": model.flops_per_token(asked["sequence_length"]),
        **_names(model),
    }
    if isinstance(config, TransformersConfig):
        counted["config"] = whole_config(config.model_type, config.config, vocab_size)
    _require_trainable(model)
    return counted


def _names(model: CausalLM) -> dict[str, Any]:
    tables = list(vocabulary_axes(model.model_config, model.vocab_size))
    return {
        "vocabulary_names": [name for name in tables if not model.is_tied(name)],
        "tied_name": next(filter(model.is_tied, tables), None),
        "adaptable_layers": list(model.adaptable_layers),
        "parameter_names": [name for name, _ in model.named_parameters()],
    }


def _require_trainable(model: CausalLM) -> None:
    # The products of experts have no other precision on the meta device.
    model.require_separate_documents(model.bfloat16())


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
