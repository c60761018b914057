"""A model for ZeRO-3 that is whole on no rank: its parameters are partitioned one by one."""

import os
from types import ModuleType
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from distrain.models.weights.freed_memory import LARGE_BYTES, release_freed_memory
from distrain.parallel.model_spec import ModelSpec, build_on_meta, materialize

Values = dict[str, DTensor]
"""Each parameter's values by its own name, cut over the ranks along its first axis."""


def build_sharded(spec: ModelSpec, mesh: DeviceMesh) -> tuple[nn.Module, Values]:
    """Make the initialized model, of which each rank has the memory of its shards. Collective.

    Returns:
        The model, whose parameters have their shapes and no memory yet, so that an optimizer can be
        made of them; and the values.
    """
    module = build_on_meta(spec)
    for name, parameter in list(module.named_parameters()):
        axis = Shard(0) if parameter.ndim else Replicate()
        cut = distribute_tensor(parameter.detach(), mesh, [axis], src_data_rank=None)
        _replace(module, name, nn.Parameter(cut, parameter.requires_grad))
    materialize(module, spec)
    values: Values = {}
    for name, parameter in list(module.named_parameters()):
        values[name] = cast(DTensor, parameter.detach())
        # One element stands for all of them.
        stub = torch.empty((), dtype=parameter.dtype, device=spec.device).expand(parameter.shape)
        _replace(module, name, nn.Parameter(stub, parameter.requires_grad))
    return module, values


def partition_parameters(
    deepspeed: ModuleType, module: nn.Module, values: Values, config: dict[str, Any]
) -> None:
    """Give each parameter its values and at once to DeepSpeed, which cuts it. Collective.

    At any moment one parameter is whole.

    Args:
        deepspeed: The package.
        module: From ``build_sharded``; its parameters stay the same objects.
        values: Used up.
        config: Of the engine to come.
    """
    # It asks for the device by this variable, which only torchrun sets.
    os.environ.setdefault("LOCAL_RANK", "0")
    first: _Partitioned | None = None
    release_freed_memory()
    for name, parameter in module.named_parameters():
        values_bytes = parameter.numel() * parameter.element_size()
        parameter.data = values.pop(name).full_tensor()
        if first is None:
            alone = nn.ParameterList([parameter])
            deepspeed.zero.Init(module=alone, config_dict_or_path=config, dtype=parameter.dtype)
            first = cast(_Partitioned, parameter)
        else:
            first.convert_to_zero_parameters(param_list=[parameter])
        if values_bytes >= LARGE_BYTES:
            release_freed_memory()


def _replace(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put a parameter in the place of another, under all of its names."""
    old = module.get_parameter(name)
    for other, held in list(module.named_parameters(remove_duplicate=False)):
        if held is old:
            path, _, attribute = other.rpartition(".")
            setattr(module.get_submodule(path), attribute, parameter)


class _Partitioned(Protocol):
    """What is used of a parameter that DeepSpeed has cut."""

    data: Tensor

    def convert_to_zero_parameters(self, *, param_list: list[nn.Parameter]) -> None: ...
