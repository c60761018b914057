"""Choose the device of a rank, and the precision of its forward and backward pass."""

from typing import Literal

import torch

from distrain.errors import PreflightError
from distrain.parallel.model_spec import Precision
from distrain.parallel.process_group import local_rank


def resolve_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Choose this rank's device; ``auto`` is a GPU where there is one.

    Raises:
        PreflightError: There is no GPU, or fewer than ranks on this node.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    # Of torchrun; a process of its own takes the first GPU it may see.
    rank = local_rank()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if rank >= count:
        raise PreflightError(
            "training.device",
            f"{count} usable GPUs on this node",
            f"one for each process here, at least {rank + 1}",
            f"Set launch.processes_per_node to {count}."
            if count
            else "Set training.device to cpu, or install PyTorch's CUDA wheels and a driver.",
        )
    return torch.device("cuda", rank)


def resolve_precision(
    name: Literal["auto", "fp32", "bf16", "fp64"], device: torch.device
) -> Precision:
    """Choose the precision of forward and backward; ``auto`` is bf16 on a GPU that has it.

    A CPU can compute in bf16 too, but more slowly than in fp32 unless it has the instructions.
    """
    if name != "auto":
        return name
    # Emulated bf16 is slower than fp32, and no more exact.
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp32"


def device_name(device: torch.device) -> str:
    """Name the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
