"""Starting values: a pure function of (seed, parameter name), whatever the ranks and the engine."""

import hashlib

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from distrain.models.causal_lm import CausalLM


def initialize(model: nn.Module, seed: int) -> None:
    """Set every parameter to its starting value; ties shared weights first.

    Works on a materialised model, sharded by FSDP2 (DTensor) or not, and needs no communication.
    Which value that is, the model says (``CausalLM.starting_value``).
    """
    assert isinstance(model, CausalLM), f"{type(model).__name__} is not one of MODELS"
    model.tie_weights()
    for name, parameter in model.named_parameters():
        # All of it on every rank, one parameter at a time: the values of a shard then do not
        # depend on how it is cut. The generator is keyed by name, so no other parameter moves
        # them either.
        generator = named_generator(seed, name)
        fill(parameter, model.starting_value(name, parameter.shape, generator))


def named_generator(seed: int, name: str) -> torch.Generator:
    """Make the generator of one parameter's values, on the CPU, where any machine repeats it."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    # Shifted, as a seed of torch is a signed 64-bit number.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def fill(parameter: Tensor, full: Tensor) -> None:
    """Copy the whole tensor ``full`` into a parameter, or this rank's part of it into a DTensor."""
    full = full.to(parameter.device, parameter.dtype)
    with torch.no_grad():
        if isinstance(parameter, DTensor):
            # With no source rank, each rank cuts its part from its own copy: nothing is sent.
            full = distribute_tensor(
                full, parameter.device_mesh, parameter.placements, src_data_rank=None
            )
        parameter.copy_(full)
