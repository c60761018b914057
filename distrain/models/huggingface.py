"""Models in Hugging Face's form: ``config.json`` and safetensors.

What a family is called and how its tensors are named there, its two halves say.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distrain.config.huggingface import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    damaged_file,
    load_config,
    missing_file,
    read_json_object,
    weight_files,
)
from distrain.config.models import ModelConfig
from distrain.errors import PreflightError
from distrain.models import build_model
from distrain.models.causal_lm import CausalLM
from distrain.models.origin import (
    GENERATION_FILE,
    Origin,
    SpecialTokens,
    write_tensors,
)
from distrain.runs.durable import whole_folder
from distrain.runs.records import write_json

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""As safetensors names them."""


def save_huggingface(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    vocab_size: int,
    folder: Path,
    special: SpecialTokens,
) -> None:
    """Write a folder that ``from_pretrained`` of transformers loads.

    It appears when it is complete, and replaces what is there under that name. The arguments are
    those of ``write_huggingface``.
    """
    with whole_folder(folder) as partial:
        write_huggingface(state, config, vocab_size, partial, special)


def write_huggingface(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    vocab_size: int,
    folder: Path,
    special: SpecialTokens,
    origin: Origin | None = None,
) -> None:
    """Write the files of the model into a folder that is there.

    Args:
        state: Every parameter by name; without ``origin`` of one dtype, which is that of the
            folder. A tied ``lm_head.weight`` may be there or not.
        config: Sizes of the model.
        vocab_size: Rows of the embedding.
        folder: Other files in it are left alone.
        special: For ``generate`` of transformers.
        origin: Of a user's own model: dtypes and what else its folder says are kept.

    Raises:
        ValueError: The state is not that of such a model.
    """
    model = _on_meta(config, vocab_size)
    whole = {name: tensor for name, tensor in state.items() if not model.is_tied(name)}
    problem = _mismatch(whole, model)
    if problem is not None:
        raise ValueError(f"the state is not that of the model: {problem}")
    stored = model.to_huggingface(whole)
    if origin is not None:
        stored = origin.cast(stored)
        files = origin.files(special)
    else:
        fields = _to_json(config, vocab_size, _single_dtype(stored), special)
        files = {CONFIG_FILE: fields, GENERATION_FILE: asdict(special)}
    write_tensors(folder / WEIGHTS_FILE, stored)
    for name, content in files.items():
        write_json(folder / name, content)


def read_origin(folder: Path) -> Origin:
    """Read what ``load_huggingface`` leaves of a folder; weights are not read.

    Raises:
        PreflightError: As of ``load_huggingface``.
    """
    dtypes: dict[str, torch.dtype] = {}
    for path in weight_files(folder):
        dtypes.update(_stored_dtypes(path))
    generation = folder / GENERATION_FILE
    words = read_json_object(generation) if generation.exists() else {}
    return Origin(dtypes, read_json_object(folder / CONFIG_FILE), words)


def load_huggingface(folder: Path) -> tuple[ModelConfig, int, dict[str, Tensor]]:
    """Read a folder of one of ``FAMILIES``: sizes, rows of the vocabulary, parameters.

    The parameters are float32 (float64 if stored so), under the names of ``build_model``'s model;
    a tied output layer is left out. What the folder does not say, such as dropout, has the
    default of the section.

    Raises:
        PreflightError: Something is missing, damaged, or of another architecture.
    """
    config, vocab_size = load_config(folder)
    model = _on_meta(config, vocab_size)
    stored = {}
    for path in weight_files(folder):
        for name, tensor in _read_safetensors(path).items():
            if not name.endswith(model.NOT_LEARNED):
                stored[name] = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    whole = model.from_huggingface(stored)
    state = {name: tensor for name, tensor in whole.items() if not model.is_tied(name)}
    problem = _mismatch(state, model)
    if problem is not None:
        raise PreflightError(
            str(folder),
            problem,
            f"the parameters that {CONFIG_FILE} describes",
            "Point at a complete folder, as save_pretrained of transformers writes it.",
        )
    return config, vocab_size, state


def _to_json(
    config: ModelConfig, vocab_size: int, dtype: torch.dtype, special: SpecialTokens
) -> dict[str, Any]:
    name = str(dtype).removeprefix("torch.")
    return {
        **config.to_json(),
        "dtype": name,
        "torch_dtype": name,  # until transformers 4.55
        "vocab_size": vocab_size,
        # Written even where there is none: LlamaConfig's own defaults are 1 and 2.
        **asdict(special),
    }


def _single_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in state.values()}
    if len(dtypes) != 1:
        raise ValueError(f"found dtypes {sorted(map(str, dtypes))}; expected a single one")
    return dtypes.pop()


def _on_meta(config: ModelConfig, vocab_size: int) -> CausalLM:
    with torch.device("meta"):
        return build_model(config, vocab_size)


def _mismatch(state: Mapping[str, Tensor], model: CausalLM) -> str | None:
    """Describe how names and shapes differ from those of the model; ``None`` if they do not."""
    expected = {name: tuple(value.shape) for name, value in model.named_parameters()}
    missing = sorted(expected.keys() - state.keys())
    surplus = sorted(state.keys() - expected.keys())
    if missing or surplus:
        return (
            f"{len(missing)} parameters missing {missing[:3]}, "
            f"{len(surplus)} not of the model {surplus[:3]}"
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            return f"{name} of shape {tuple(state[name].shape)} where the sizes say {shape}"
    return None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise missing_file(path) from None
    except SafetensorError as error:
        raise damaged_file(path, str(error)) from error


def _stored_dtypes(path: Path) -> dict[str, torch.dtype]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            words = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise missing_file(path) from None
    except SafetensorError as error:
        raise damaged_file(path, str(error)) from error
    return {name: DTYPES.get(word, torch.float32) for name, word in words.items()}
