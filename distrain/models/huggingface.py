"""Models in Hugging Face's form: ``config.json`` and safetensors.

What a family is called and how its tensors are named there, its two halves say.
"""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distrain.config.huggingface import CONFIG_FILE, GENERATION_FILE, load_config, read_json_object
from distrain.config.models import ModelConfig
from distrain.errors import PreflightError
from distrain.models import model_on_meta
from distrain.models.causal_lm import CausalLM
from distrain.models.origin import Origin, SpecialTokens
from distrain.models.weights.conversion import ConvertedWeights, Rename
from distrain.models.weights.folder import SafetensorsFolder
from distrain.models.weights.source import (
    CastWeights,
    ReshapedWeights,
    TensorForm,
    TensorWeights,
    WeightSource,
    at_least_float32,
    form_of,
    read_all,
)
from distrain.models.weights.writer import FILE_BYTES, write_weights
from distrain.runs.durable import whole_folder
from distrain.runs.records import write_json

COMPARED_ROWS = 4096
"""Of two embeddings, at a time."""


@dataclass(frozen=True)
class FolderModel:
    """A model as a Hugging Face folder holds it; its values are read when they are asked for.

    Args:
        config: Sizes. What the folder does not say, such as dropout, has the section's default.
        vocab_size: Rows of the embedding.
        weights: Float32 (float64 if stored so), under the names of ``build_model``'s model; a tied
            output layer is left out.
        origin: What else the folder says.
    """

    config: ModelConfig
    vocab_size: int
    weights: WeightSource
    origin: Origin


def open_huggingface(folder: Path) -> FolderModel:
    """Open a folder of one of ``FAMILIES``; of the weights only the headers are read.

    Raises:
        PreflightError: Something is missing, damaged, or of another architecture.
    """
    config, vocab_size = load_config(folder)
    model = model_on_meta(config, vocab_size)
    try:
        stored = SafetensorsFolder(folder)
        converted = ConvertedWeights(stored, model.from_huggingface(stored.forms))
        weights = _untied(converted, model)
        problem = _mismatch(weights.forms, model)
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        raise PreflightError(
            str(folder),
            problem,
            f"the parameters that {CONFIG_FILE} describes",
            "Point at a complete folder, as save_pretrained of transformers writes it.",
        )
    generation = folder / GENERATION_FILE
    origin = Origin(
        {name: form.dtype for name, form in weights.forms.items()},
        read_json_object(folder / CONFIG_FILE),
        read_json_object(generation) if generation.exists() else {},
    )
    return FolderModel(config, vocab_size, CastWeights(weights, at_least_float32), origin)


def load_huggingface(folder: Path) -> tuple[ModelConfig, int, dict[str, Tensor]]:
    """Read all of a small folder: sizes, rows of the vocabulary, parameters.

    Raises:
        PreflightError: As of ``open_huggingface``.
    """
    found = open_huggingface(folder)
    return found.config, found.vocab_size, read_all(found.weights)


def save_huggingface(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    vocab_size: int,
    folder: Path,
    special: SpecialTokens,
) -> None:
    """Write a folder that ``from_pretrained`` of transformers loads.

    It appears when it is complete, and replaces what is there under that name. ``state`` is in
    memory; the other arguments are those of ``write_huggingface``.
    """
    with whole_folder(folder) as partial:
        write_huggingface(TensorWeights(state), config, vocab_size, partial, special)


def write_huggingface(  # noqa: PLR0913
    weights: WeightSource,
    config: ModelConfig,
    vocab_size: int,
    folder: Path,
    special: SpecialTokens,
    origin: Origin | None = None,
    max_file_bytes: int = FILE_BYTES,
) -> None:
    """Write the files of the model into a folder that is there, one parameter at a time.

    Args:
        weights: Every parameter by name; without ``origin`` of one dtype, which is that of the
            folder. A tied ``lm_head.weight`` may be there or not.
        config: Sizes of the model.
        vocab_size: Rows of the embedding.
        folder: Other files in it are left alone.
        special: For ``generate`` of transformers.
        origin: Of a user's own model: dtypes and what else its folder says are kept.
        max_file_bytes: Of one file of weights.

    Raises:
        ValueError: The weights are not those of such a model.
    """
    model = model_on_meta(config, vocab_size)
    weights = _with_scalars(weights, model)
    problem = _mismatch(weights.forms, model)
    if problem is not None:
        raise ValueError(f"the state is not that of the model: {problem}")
    if origin is not None:
        files = origin.files(special)
    else:
        dtype = _single_dtype(weights.forms)
        files = {
            CONFIG_FILE: _to_json(config, vocab_size, dtype, special),
            GENERATION_FILE: asdict(special),
        }
    write_weights(folder, as_stored(weights, model, origin), max_file_bytes=max_file_bytes)
    for name, content in files.items():
        write_json(folder / name, content)


def as_exported(weights: WeightSource, origin: Origin | None) -> WeightSource:
    """Give parameters, under their own names, the dtypes that they have in an exported folder."""
    return weights if origin is None else CastWeights(weights, origin.dtype_of)


def as_stored(weights: WeightSource, model: CausalLM, origin: Origin | None) -> WeightSource:
    """Show parameters as the tensors of an exported folder: its names, and its dtypes."""
    names = [name for name in weights.forms if not model.is_tied(name)]
    return ConvertedWeights(as_exported(weights, origin), model.to_huggingface(names))


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


def _single_dtype(forms: Mapping[str, TensorForm]) -> torch.dtype:
    dtypes = {form.dtype for form in forms.values() if form.dtype.is_floating_point}
    if len(dtypes) != 1:
        raise ValueError(f"found dtypes {sorted(map(str, dtypes))}; expected a single one")
    return dtypes.pop()


def _untied(found: WeightSource, model: CausalLM) -> WeightSource:
    """Leave out the second name of an embedding that is the output layer too.

    Some tools store both, some only the output layer's.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = names[id(parameter)]
        if name == first or name not in found.forms:
            continue
        if first in found.forms and not _equal(found, first, name):
            raise ValueError(
                f"{name} with other values than {first}, though tie_word_embeddings says that they "
                "are one parameter"
            )
        kept = {other: other for other in found.forms if other != name}
        kept.setdefault(first, name)
        found = ConvertedWeights(found, [Rename(there, here) for here, there in kept.items()])
    return found


def _equal(weights: WeightSource, first: str, second: str) -> bool:
    form, other = weights.forms[first], weights.forms[second]
    if form.shape != other.shape:
        return False
    parts = [slice(row, row + COMPARED_ROWS) for row in range(0, form.shape[0], COMPARED_ROWS)]
    return all(weights.read(first, (p,)).equal(weights.read(second, (p,))) for p in parts)


def _with_scalars(weights: WeightSource, model: CausalLM) -> WeightSource:
    """Show buffers of no axis as such; in checkpoints, which cut tensors, they have one."""
    scalars = {
        name: ()
        for name, buffer in model.named_buffers()
        if buffer.ndim == 0 and name in weights.forms and weights.forms[name].shape == (1,)
    }
    return ReshapedWeights(weights, scalars) if scalars else weights


def _mismatch(forms: Mapping[str, TensorForm], model: CausalLM) -> str | None:
    """Describe how names and shapes differ from those of the model; ``None`` if they do not."""
    expected = {
        name: form_of(tensor)
        for name, tensor in model.state_dict().items()
        if not model.is_tied(name)
    }
    found = {name: form for name, form in forms.items() if not model.is_tied(name)}
    missing = sorted(expected.keys() - found.keys())
    surplus = sorted(found.keys() - expected.keys())
    if missing or surplus:
        return (
            f"{len(missing)} parameters missing {_with_nearest(missing, surplus)}, "
            f"{len(surplus)} not of the model {_with_nearest(surplus, missing or list(expected))}"
        )
    for name, form in expected.items():
        if found[name].shape != form.shape:
            return f"{name} of shape {found[name].shape} where the sizes say {form.shape}"
    return None


def _with_nearest(names: list[str], others: list[str]) -> str:
    """Show at most three names, each with the one of ``others`` that it may be meant for."""
    shown = []
    for name in names[:3]:
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
        shown.append(f"{name!r} (like {near[0]!r})" if near else repr(name))
    more = [f"and {len(names) - 3} more"] if len(names) > 3 else []
    return f"[{', '.join([*shown, *more])}]"
