"""States to save and load: the same global tensors, cut in different ways."""

import math
import random
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distrain.checkpoint.manager import CheckpointManager
from distrain.config.training import CheckpointConfig
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import Box, GlobalTensor, State, from_flat_range, whole

SHAPES = {
    "model/embed.weight": (13, 6),
    "model/layers.0.odd": (7,),
    "model/layers.0.cube": (3, 4, 5),
    "model/layers.0.tiny": (2,),
    "buffer/scale": (1,),
    "exp_avg/embed.weight": (13, 6),
}


def full_tensors(seed: int) -> dict[str, Tensor]:
    """Values whose bits matter: a copy that goes through arithmetic would not return them."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    tensors["model/layers.0.odd"][:4] = torch.tensor([float("nan"), -0.0, float("inf"), 1e-42])
    tensors["buffer/steps"] = torch.tensor([2**40 + seed])
    return tensors


def cut(tensors: dict[str, Tensor], how: str, rank: int, world_size: int) -> State:
    """Take one rank's part, as views of fresh memory.

    ``rows`` and ``columns`` cut like FSDP2 and tensor parallelism, ``ranges`` like ZeRO,
    ``ranges:SEED`` at random places, ``replica`` not at all (rank 0 writes).
    """
    return {name: _part(name, tensor, how, rank, world_size) for name, tensor in tensors.items()}


def _part(name: str, tensor: Tensor, how: str, rank: int, world_size: int) -> GlobalTensor:
    if how == "replica" or name.startswith("buffer/"):
        return whole(tensor.clone(), writes=rank == 0)
    if how in ("rows", "columns"):
        axis = 0 if how == "rows" else tensor.ndim - 1
        step = math.ceil(tensor.shape[axis] / world_size)
        begin = min(rank * step, tensor.shape[axis])
        length = min(step, tensor.shape[axis] - begin)
        offsets = tuple(begin if at == axis else 0 for at in range(tensor.ndim))
        box = Box(offsets, tensor.narrow(axis, begin, length).clone())
        return GlobalTensor(tuple(tensor.shape), tensor.dtype, (box,))
    cuts = _cuts(name, how, tensor.numel(), world_size)
    values = tensor.flatten()[cuts[rank] : cuts[rank + 1]].clone()
    return from_flat_range(tensor.shape, cuts[rank], values)


def _cuts(name: str, how: str, numel: int, world_size: int) -> list[int]:
    if how == "ranges":
        size = math.ceil(numel / world_size)
        return [min(rank * size, numel) for rank in range(world_size + 1)]
    chance = random.Random(how + name)
    return [0, *sorted(chance.choices(range(numel + 1), k=world_size - 1)), numel]


def zeroed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make tensors of the same form to load into."""
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def assert_same_bits(state: State, expected: State) -> None:
    assert list(state) == list(expected)
    for name, entry in state.items():
        for box, other in zip(entry.boxes, expected[name].boxes, strict=True):
            assert box.offsets == other.offsets, name
            assert bits(box.tensor) == bits(other.tensor), name


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


class Recorder:
    """Keeps the events that a manager reports."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict]] = []

    def __call__(self, kind: str, fields: dict) -> None:
        self.events.append((kind, fields))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


def manager(
    stage: Path,
    recorder: Callable[[str, dict[str, Any]], None] | None = None,
    *,
    keep_last: int = 2,
    async_save: bool = True,
    host: HostGroup | None = None,
    keep_steps: Collection[int] = (),
    **settings: Any,
) -> CheckpointManager:
    return CheckpointManager(
        stage / "checkpoints",
        stage / "quarantine",
        config=CheckpointConfig(keep_last=keep_last, async_save=async_save, **settings),
        host=host or HostGroup(),
        on_event=recorder or Recorder(),
        keep_steps=keep_steps,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
