"""Low-rank adapters (LoRA, arXiv 2106.09685): put into a model by peft, then saved or merged.

Names in checkpoints are those of pretraining for the frozen weights
(``model.layers.0.mlp.up_proj.weight``) and PEFT's file names without their prefix for adapters
(``model.layers.0.mlp.up_proj.lora_A.weight``). ``plain_name`` maps what the model calls them.
"""

import difflib
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from distrain.config.training import LoraConfig
from distrain.errors import RecipeError
from distrain.models.causal_lm import CausalLM
from distrain.models.init import fill
from distrain.models.initial_values import keyed_generator
from distrain.models.weights.writer import write_tensors
from distrain.parallel.global_tensor import State, whole
from distrain.runs.durable import whole_folder
from distrain.runs.records import write_json

PEFT_PREFIX = "base_model.model."
"""Of every name in an adapter file: ``PeftModel``, its tuner, then the model itself."""
ADAPTER_NAME = "default"
A_SUFFIX, B_SUFFIX = ".lora_A.weight", ".lora_B.weight"
CACHED_ELEMENTS = 1 << 15
"""Of a weight, merged at a time: 128 KiB in float32, too little to be given to several threads."""


def inject_lora(model: CausalLM, config: LoraConfig, seed: int) -> CausalLM:
    """Freeze the model and put trainable adapters beside its linear layers, in place.

    It stays the same object with the same ``forward``, and computes the same as before until the
    adapters are trained. On the meta device adapters are made there too; call ``initialize_lora``
    when they have memory.

    Raises:
        RecipeError: ``lora.target_modules`` names something that cannot be adapted.
    """
    import peft

    targets = target_modules(model, config)
    on_meta = next(model.parameters()).is_meta
    peft_config = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(targets),
        fan_in_fan_out=bool(model.transposed_layers),
        task_type="CAUSAL_LM",
    )
    peft.inject_adapter_in_model(
        peft_config, model, adapter_name=ADAPTER_NAME, low_cpu_mem_usage=on_meta
    )
    initialize_lora(model, seed)
    return model


def initialize_lora(model: nn.Module, seed: int) -> None:
    """Set the adapters to their starting values, a pure function of (seed, name); B is zero.

    A is uniform with the bound that peft uses, ``1 / sqrt(inputs)``. Other parameters are left
    alone. DTensors are filled without communication.
    """
    for name, parameter in model.named_parameters():
        plain = plain_name(name)
        if plain.endswith(A_SUFFIX):
            bound = 1 / math.sqrt(parameter.shape[1])
            generator = keyed_generator(f"{seed}/{plain}")
            full = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            fill(parameter, full)
        elif plain.endswith(B_SUFFIX):
            fill(parameter, torch.zeros(parameter.shape))


def plain_name(name: str) -> str:
    """Turn the name of a parameter in a model with adapters into its name in checkpoints."""
    name = name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
    for matrix in ("lora_A", "lora_B"):
        name = name.replace(f".{matrix}.{ADAPTER_NAME}.", f".{matrix}.")
    return name


def is_adapter(name: str) -> bool:
    """Return whether a name from ``plain_name`` is that of an adapter."""
    return name.endswith((A_SUFFIX, B_SUFFIX))


def target_modules(model: CausalLM, config: LoraConfig) -> tuple[str, ...]:
    """List the last parts of the names of the layers to adapt, sorted.

    Raises:
        RecipeError: The recipe names a layer that is not there or cannot be adapted.
    """
    allowed = model.adaptable_layers
    if config.target_modules == "all-linear":
        return allowed
    for name in config.target_modules:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            raise RecipeError(
                "lora.target_modules",
                f"'{name}'",
                f"some of {', '.join(allowed)}",
                f"Write {near[0]}." if near else "Write all-linear, or choose from the list.",
            )
    return tuple(sorted(set(config.target_modules)))


def save_adapter(
    state: Mapping[str, Tensor],
    config: LoraConfig,
    model: CausalLM,
    base_folder_name: str,
    folder: Path,
) -> None:
    """Write a folder that ``PeftModel.from_pretrained(model, folder)`` loads.

    Args:
        state: The adapters under the names of ``plain_name``.
        config: With which they were made.
        model: Adapted by them; values do not matter. Says how layers are called in its folder.
        base_folder_name: What the folder gives as its base model: a path, or a folder beside it.
        folder: Appears when it is complete; one that is there is replaced.

    Raises:
        ValueError: An adapter has only one of its two matrices, or there is none.
    """
    layers, stored = set(), {}
    for layer in adapted_layers(state):
        written = model.huggingface_name(f"{layer}.weight").removesuffix(".weight")
        layers.add(written.rpartition(".")[2])
        for suffix in (A_SUFFIX, B_SUFFIX):
            stored[PEFT_PREFIX + written + suffix] = state[layer + suffix]
    with whole_folder(folder) as partial:
        write_tensors(partial / "adapter_model.safetensors", stored)
        # The file that peft writes also states its defaults; written by hand, because importing
        # peft takes seconds.
        write_json(
            partial / "adapter_config.json",
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": base_folder_name,
                "r": config.r,
                "lora_alpha": config.alpha,
                "lora_dropout": config.dropout,
                "target_modules": sorted(layers),
                "bias": "none",
                "fan_in_fan_out": not model.transposed_layers.isdisjoint(adapted_layers(state)),
                "use_rslora": False,
                "inference_mode": True,
            },
        )


def merge(
    base_state: Mapping[str, Tensor],
    adapter_state: Mapping[str, Tensor],
    config: LoraConfig,
    transposed: Collection[str] = (),
) -> dict[str, Tensor]:
    """Add ``alpha / r * B @ A`` to each adapted weight; the arguments stay as they are.

    Taken in float32 at least, then rounded to the dtype of the weight.

    Args:
        base_state: Whole weights by name.
        adapter_state: Whole adapters, under the names of ``plain_name``.
        config: With which they were made.
        transposed: Layers whose weight has its inputs first: ``CausalLM.transposed_layers``.

    Raises:
        ValueError: The adapters are not of this base model.
    """
    names = [f"{layer}.weight" for layer in adapted_layers(adapter_state)]
    adapted = {name: base_state[name].clone() for name in names if name in base_state}
    state = {f"model/{name}": whole(tensor, writes=True) for name, tensor in adapted.items()}
    merge_into(state, adapter_state, config, transposed)
    return {**base_state, **adapted}


def merge_into(
    state: State,
    adapter_state: Mapping[str, Tensor],
    config: LoraConfig,
    transposed: Collection[str] = (),
) -> None:
    """Merge in place into this rank's parts of the weights, named ``model/...``. Not collective.

    The bits are those of ``merge``, however the weights are cut.

    Raises:
        ValueError: The adapters are not of this base model.
    """
    for layer in adapted_layers(adapter_state):
        entry = state.get(f"model/{layer}.weight")
        outputs, inputs = (1, 0) if layer in transposed else (0, 1)  # axes of the weight
        found = None if entry is None else (entry.shape[outputs], entry.shape[inputs])
        matrix_a, matrix_b = _matrices(adapter_state, layer, found)
        for box in () if entry is None else entry.boxes:
            row, column = box.offsets[outputs], box.offsets[inputs]
            weight = box.tensor.permute(outputs, inputs)
            part = (
                matrix_a[:, column : column + weight.shape[1]],
                matrix_b[row : row + weight.shape[0]],
            )
            weight.copy_(_merged(weight, part, config))


def _matrices(
    adapter_state: Mapping[str, Tensor], layer: str, found: tuple[int, ...] | None
) -> tuple[Tensor, Tensor]:
    matrix_a, matrix_b = adapter_state[layer + A_SUFFIX], adapter_state[layer + B_SUFFIX]
    shape = (matrix_b.shape[0], matrix_a.shape[1])
    if found != shape:
        what = "missing" if found is None else f"of shape {found}"
        raise ValueError(f"{layer}.weight is {what} in the base model; the adapter expects {shape}")
    return matrix_a, matrix_b


@torch.no_grad()
def _merged(weight: Tensor, matrices: tuple[Tensor, Tensor], config: LoraConfig) -> Tensor:
    """Return a weight, or a part of it, with its adapter.

    Not by a matrix product, whose order of sums depends on shape, threads and machine: what a stage
    starts from must have the same bits wherever and in whichever parts it is made.
    """
    exact = torch.promote_types(weight.dtype, torch.float32)
    matrix_a, matrix_b = (matrix.to(weight.device, exact) for matrix in matrices)
    merged = torch.empty_like(weight)
    # On a CPU a few rows at a time, which stay in its cache while the terms are added up.
    elements = CACHED_ELEMENTS if weight.device.type == "cpu" else weight.numel()
    rows = max(1, elements // max(1, weight.shape[1]))
    for part, part_b, target in zip(
        weight.split(rows), matrix_b.split(rows), merged.split(rows), strict=True
    ):
        update = torch.zeros_like(part, dtype=exact)
        for column, row in zip(part_b.unbind(1), matrix_a, strict=True):
            update += column[:, None] * row
        target.copy_(part.to(exact) + config.alpha / config.r * update)
    return merged


def adapted_layers(adapter_state: Mapping[str, Tensor]) -> list[str]:
    """List the layers that have an adapter, in the order of the state.

    Raises:
        ValueError: There is none, a name is no adapter's, or one of a pair is missing.
    """
    layers = list(dict.fromkeys(name.rpartition(".lora_")[0] for name in adapter_state))
    expected = {layer + suffix for layer in layers for suffix in (A_SUFFIX, B_SUFFIX)}
    different = sorted(expected ^ adapter_state.keys())
    if different or not layers:
        raise ValueError(f"found {different[:4] or 'no adapter'}; expected pairs of lora_A, lora_B")
    return layers
