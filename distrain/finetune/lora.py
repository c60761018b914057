"""Low-rank adapters (LoRA, arXiv 2106.09685): put into a model by peft.

Names in checkpoints are those of pretraining for the model's own weights
(``model.layers.0.mlp.up_proj.weight``) and PEFT's file names without their prefix for adapters
(``model.layers.0.mlp.up_proj.lora_A.weight``). ``plain_name`` maps what the model calls them.
"""

import difflib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distrain.config.lora import LoraConfig, ends_with
from distrain.errors import RecipeError
from distrain.models.causal_lm import CausalLM, model_in
from distrain.models.init import fill
from distrain.models.initial_values import keyed_generator

PEFT_PREFIX = "base_model.model."
"""Of every name in an adapter file: ``PeftModel``, its tuner, then the model itself."""
ADAPTER_NAME = "default"
A_SUFFIX, B_SUFFIX = ".lora_A.weight", ".lora_B.weight"
MAGNITUDE_SUFFIX = ".lora_magnitude_vector"
"""Of DoRA: the length of each row of the merged weight."""


def inject_lora(model: CausalLM, config: LoraConfig, seed: int) -> CausalLM:
    """Freeze the model and put trainable adapters beside its linear layers, in place.

    It stays the same object with the same ``forward``, and computes the same as before until the
    adapters are trained. On the meta device adapters are made there too; call ``initialize_lora``
    when they have memory.

    Modules that are trained whole stay where they are, without peft's copy of each: nothing needs
    their old values but the base, which is kept elsewhere.

    Raises:
        RecipeError: ``lora.target_modules`` names something that cannot be adapted.
    """
    import peft

    targets = target_layers(model, config)
    on_meta = next(model.parameters()).is_meta
    peft_config = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern=dict(config.alpha_pattern),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        lora_dropout=config.dropout,
        target_modules=list(targets),
        fan_in_fan_out=bool(model.transposed_layers),
        task_type="CAUSAL_LM",
    )
    peft.inject_adapter_in_model(
        peft_config, model, adapter_name=ADAPTER_NAME, low_cpu_mem_usage=on_meta
    )
    for name, parameter in model.named_parameters():
        if config.saves(plain_name(name)):
            parameter.requires_grad_(True)
    initialize_lora(model, seed)
    return model


def initialize_lora(model: nn.Module, seed: int) -> None:
    """Set the adapters to their starting values, a pure function of (seed, name); B is zero.

    A is uniform with the bound that peft uses, ``1 / sqrt(inputs)``. Other parameters are left
    alone, DoRA's magnitudes too: they follow from the base. DTensors are filled without
    communication.
    """
    packed = model_in(model).packed
    for name, parameter in model.named_parameters():
        plain, blocks = plain_name(name), packed.get(name, ())
        if plain.endswith(A_SUFFIX):
            bound = 1 / math.sqrt(parameter.shape[1])
            generator = keyed_generator(f"{seed}/{plain}")
            full = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            fill(parameter, full, blocks)
        elif plain.endswith(B_SUFFIX):
            fill(parameter, torch.zeros(parameter.shape), blocks)


def plain_name(name: str) -> str:
    """Turn the name of a parameter in a model with adapters into its name in checkpoints."""
    name = name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
    for matrix in ("lora_A", "lora_B"):
        name = name.replace(f".{matrix}.{ADAPTER_NAME}.", f".{matrix}.")
    return name.replace(f"{MAGNITUDE_SUFFIX}.{ADAPTER_NAME}.weight", MAGNITUDE_SUFFIX)


def is_adapter(name: str) -> bool:
    """Return whether a name from ``plain_name`` is that of an adapter."""
    return name.endswith((A_SUFFIX, B_SUFFIX, MAGNITUDE_SUFFIX))


def is_tuned(name: str, config: LoraConfig) -> bool:
    """Return whether a name from ``plain_name`` is of what fine-tuning with adapters trains."""
    return is_adapter(name) or config.saves(name)


def tuned_state(model: nn.Module, config: LoraConfig) -> dict[str, Tensor]:
    """Show what is trained of a model from ``inject_lora``, under plain names."""
    named = {plain_name(name): p.detach() for name, p in model.named_parameters()}
    return {name: tensor for name, tensor in named.items() if is_tuned(name, config)}


def target_layers(model: CausalLM, config: LoraConfig) -> tuple[str, ...]:
    """List the layers to adapt, by their whole names.

    Raises:
        RecipeError: The recipe names a layer that is not there or cannot be adapted, or none.
    """
    allowed = model.adaptable_layers
    layers = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in allowed]
    if not isinstance(config.target_modules, str):
        for name in config.target_modules:
            if not any(ends_with(layer, name) for layer in layers):
                near = difflib.get_close_matches(name, allowed, n=1)
                raise RecipeError(
                    "lora.target_modules",
                    f"'{name}'",
                    f"some of {', '.join(allowed)}",
                    f"Write {near[0]}." if near else "Write all-linear, or choose from the list.",
                )
    targets = tuple(filter(config.is_target, layers))
    if not targets:
        raise RecipeError(
            "lora.target_modules",
            f"'{config.target_modules}', which is the name of no linear layer",
            f"a regular expression for names such as {layers[0]}",
            "Write all-linear, or .* for what differs.",
        )
    return targets


@contextmanager
def adapters_disabled(model: nn.Module) -> Iterator[None]:
    """Let the forward pass leave the adapters out."""
    # Whoever put adapters in has imported it; where nobody has, it would take seconds for nothing.
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    kind = None if tuners is None else tuners.BaseTunerLayer
    layers = [m for m in model.modules() if kind is not None and isinstance(m, kind)]
    for layer in layers:
        layer._disable_adapters = True  # the public switch also changes what is trainable
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
