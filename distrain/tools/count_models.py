"""Count models for the launcher, which has no torch: one JSON list in, one out.

In: mappings with ``model`` (a section of a recipe), ``vocab_size`` and ``sequence_length``, or with
``folder``, whose weights are compared with its sizes by their headers. Out, in the same order:
``parameters``, ``flops_per_token`` and ``linear_layers``, or ``problem``: why there can be no such
model.
"""

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

from torch import nn

from distrain.config.models import ModelConfig
from distrain.errors import DistrainError
from distrain.models import model_on_meta
from distrain.models.huggingface import open_huggingface


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
            return {"parameters": count_folder(Path(asked["folder"]))}
        return count(asked)
    except DistrainError as error:
        return {"problem": error.found, "remedy": error.remedy}
    # Libraries refuse settings by whatever they meet first; each is a mistake of the recipe.
    except Exception as error:  # noqa: BLE001
        return {"problem": f"{type(error).__name__}: {_last_line(error)}", "remedy": ""}


def count_folder(folder: Path) -> int:
    """Open a folder, which compares its weights with its sizes, and count them."""
    forms = open_huggingface(folder).weights.forms
    return sum(math.prod(form.shape) for form in forms.values())


def count(asked: dict[str, Any]) -> dict[str, Any]:
    """Build one model without values, and count it."""
    section = dict(asked["model"])
    form = ModelConfig.forms()[section["name"]]
    model = model_on_meta(form.model_validate(section), asked["vocab_size"])
    layers = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if module is not model.output_layer
    }
    return {
        "parameters": model.num_parameters(),
        "flops_per_token": model.flops_per_token(asked["sequence_length"]),
        "linear_layers": sorted(layers),
    }


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
