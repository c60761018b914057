"""The input of an engine: how to make model and optimizer, the device, and the precision.

The model is single-device code. It is made here, either at once or on the meta device, where it
costs no memory until the engine has cut it into shards.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from distrain.config.training import ParallelismConfig
from distrain.optim.state import OptimizerState
from distrain.parallel.compilation import compile_blocks
from distrain.parallel.recomputation import recompute_blocks

Precision = Literal["fp32", "bf16", "fp64"]


def always(name: str) -> bool:
    """Say yes to every name."""
    del name
    return True


def same_name(name: str) -> str:
    """Keep a parameter's name."""
    return name


@dataclass(frozen=True)
class ModelSpec:
    """Layers 4 and 8 before they are laid over ranks.

    Args:
        build_model: Makes the single-device model; must run on the meta device too. Its values
            do not matter, those of its buffers do.
        initialize: Fills every parameter (not the buffers) in place, with the same global values
            whatever the engine; a parameter may be a DTensor.
        build_optimizer: Makes the optimizer from (plain name, parameter) pairs, frozen ones
            included.
            The names are the model's own.
        block_classes: Of a model, the modules that FSDP2 gathers one at a time.
        device: Of this rank.
        precision: Of forward and backward. Master weights are fp32, or fp64 under ``"fp64"``.
        parallelism: The recipe's; of its degrees, the layout is what counts.
        recompute_every: Activation checkpointing of each so-manieth block; see
            ``distrain.parallel.recomputation``.
        compiles_blocks: See ``distrain.parallel.compilation``.
        plain_name: The model's own name of a parameter or buffer -> its name in checkpoints.
        is_state: Whether a parameter is part of the state, by its plain name. The others are
            frozen, ``build_model`` gives them their values, and no checkpoint holds them. Of
            engines that keep parameters whole.
    """

    build_model: Callable[[], nn.Module]
    initialize: Callable[[nn.Module], None]
    build_optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], OptimizerState]
    block_classes: Callable[[nn.Module], tuple[type[nn.Module], ...]]
    device: torch.device
    precision: Precision = "fp32"
    parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)
    recompute_every: int | None = None
    compiles_blocks: bool = False
    plain_name: Callable[[str], str] = same_name
    is_state: Callable[[str], bool] = always

    @property
    def master_dtype(self) -> torch.dtype:
        """Type of parameters and moments between steps."""
        return torch.float64 if self.precision == "fp64" else torch.float32


def build_whole(spec: ModelSpec) -> nn.Module:
    """Make the initialized model, complete on this rank."""
    module = _build(spec).to(device=spec.device, dtype=spec.master_dtype)
    with torch.no_grad():
        spec.initialize(module)
    return module


def build_on_meta(spec: ModelSpec) -> nn.Module:
    """Make the model without memory for its parameters; buffers are real."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        module = _build(spec)
    # accelerate makes each parameter anew and thereby unties what the model has tied.
    _tie(module, _tied_names(build_without_values(spec)))
    return module.to(dtype=spec.master_dtype)


def build_without_values(spec: ModelSpec) -> nn.Module:
    """Make the model as it is written, with all of it, buffers too, on the meta device."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=True):
        return spec.build_model()


def materialize(module: nn.Module, spec: ModelSpec) -> None:
    """Give a model from ``build_on_meta``, cut into shards by now, its memory and its values."""
    # Noted before: ``_apply`` makes a tensor for each name, and unties them.
    tied = _tied_names(module)
    # `to_empty` would also throw away the values of the buffers, which are real already.
    module._apply(
        lambda tensor: (
            torch.empty_like(tensor, device=spec.device)
            if tensor.is_meta
            else tensor.to(spec.device)
        )
    )
    _tie(module, tied)
    with torch.no_grad():
        spec.initialize(module)


def _build(spec: ModelSpec) -> nn.Module:
    module = spec.build_model()
    if spec.compiles_blocks:
        compile_blocks(module, spec.block_classes(module))
    if spec.recompute_every is not None:
        recompute_blocks(module, spec.block_classes(module), spec.recompute_every)
    return module


def _tied_names(module: nn.Module) -> list[tuple[str, str]]:
    """List (name, first name) of each parameter that has several."""
    first_names: dict[int, str] = {}
    named = module.named_parameters(remove_duplicate=False)
    pairs = [(name, first_names.setdefault(id(parameter), name)) for name, parameter in named]
    return [(name, first) for name, first in pairs if name != first]


def _tie(module: nn.Module, tied: list[tuple[str, str]]) -> None:
    for name, first in tied:
        if module.get_parameter(name) is not module.get_parameter(first):
            path, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(path), attribute, module.get_parameter(first))


def cast_forward(module: nn.Module, spec: ModelSpec) -> None:
    """Under bf16, let the forward pass choose bf16 where that is safe; parameters stay fp32."""
    if spec.precision == "bf16":
        autocast = torch.autocast(spec.device.type, dtype=torch.bfloat16)
        # The method and not a module around it, which would rename every parameter.
        module.forward = autocast(module.forward)


def named_persistent_buffers(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """List the buffers that belong in a checkpoint, in the order of the modules."""
    return [
        (f"{path}.{name}" if path else name, buffer)
        for path, child in module.named_modules()
        for name, buffer in child.named_buffers(recurse=False)
        if name not in child._non_persistent_buffers_set
    ]
