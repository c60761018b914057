"""A model that is asked or measured in one process, and may be larger than its device.

Where the weights do not fit the first device, accelerate's device map lays whole blocks on the
GPUs, then into host memory, and leaves the rest where it is stored: that is read anew in each
forward pass, module by module. Nothing is written.
"""

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distrain.models.causal_lm import CausalLM
from distrain.models.weights.filling import fill_module, fill_tensors
from distrain.models.weights.source import WeightSource
from distrain.monitor.memory import GIB, available_bytes
from distrain.parallel.device import resolve_device

logger = logging.getLogger(__name__)

SHARE = 0.9
"""Of the free memory that weights may take; the rest is for what is computed."""
HOST = "cpu"
"""As accelerate calls the memory of the host; what is left where it is stored is on ``disk``."""


@dataclass(frozen=True)
class DeviceMemory:
    """What weights may take of this process's devices; found before any are loaded.

    Args:
        main: Where inputs go, and where what lies on no device is computed.
        limits: Bytes by device, GPUs by number before the host, in the order of filling.
    """

    main: torch.device
    limits: Mapping[int | str, int]

    @classmethod
    def find(cls, max_memory: int | None = None) -> "DeviceMemory":
        """Look at what is free now.

        Args:
            max_memory: Bytes of each GPU or, where there is none, of the host.
        """
        main, available = resolve_device("auto"), available_bytes()
        host = sys.maxsize if available is None else int(SHARE * available)
        if main.type == "cpu":
            return cls(main, {HOST: host if max_memory is None else max_memory})
        limits: dict[int | str, int] = {}
        for number in range(torch.cuda.device_count()):
            free, _ = torch.cuda.mem_get_info(number)
            limits[number] = min(int(SHARE * free), max_memory or free)
        return cls(main, limits | {HOST: host})

    @property
    def main_name(self) -> int | str:
        """Of the device ``main``, in ``limits``."""
        return HOST if self.main.type == "cpu" else self.main.index


def load_weights(model: CausalLM, weights: WeightSource, memory: DeviceMemory) -> None:
    """Give a model its weights: on the main device, or over several where they do not fit it.

    Args:
        model: From ``build_empty``, or loaded before.
        weights: Everything but what is tied; kept where not all of it fits into memory.
        memory: What may be taken.

    Raises:
        RecipeError: A family of transformers that does not keep documents apart.
    """
    if model.main_device is not None:
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(model, recurse=True)
        model.main_device = None
    sizes = {
        name: form.on_meta().nbytes
        for name, form in weights.forms.items()
        if not model.is_tied(name)
    }
    room = memory.limits[memory.main_name]
    if sum(sizes.values()) <= room:
        fill_module(model, weights, memory.main)
        return
    device_map = _spread(model, weights, memory)
    places = Counter[int | str]()
    for name, size in sizes.items():
        places[_place(device_map, name)] += size
    shares = ", ".join(f"{size / GIB:.2f} on {place}" for place, size in places.items())
    logger.info(
        "weights of %.2f GiB are spread, as %s may take %.2f: %s",
        *(sum(sizes.values()) / GIB, memory.main, room / GIB, shares),
    )


def _spread(
    model: CausalLM, weights: WeightSource, memory: DeviceMemory
) -> Mapping[str, int | str]:
    from accelerate import dispatch_model

    # It warns of what ``load_weights`` reports.
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
    model.tie_weights()  # what was brought to a device was a parameter of its own
    device_map = map_devices(model, weights, memory)
    parameters = dict(model.named_parameters())

    def device_of(name: str) -> torch.device:
        place = _place(device_map, name)
        if place == memory.main_name or isinstance(place, int):
            return torch.device(place)
        # accelerate brings parameters when they are needed; buffers stay on the main device.
        return torch.device("meta") if name in parameters else memory.main

    held = [name for name in parameters if _place(device_map, name) == HOST != memory.main_name]
    brought = BroughtWeights(model, weights, held)
    fill_tensors(model, weights, device_of)
    model.main_device = memory.main
    # An index, though an empty one, says that what is stored needs no copy on the disk.
    dispatch_model(model, device_map, memory.main_name, brought, offload_index={})
    model.require_separate_documents(model)
    return device_map


def map_devices(
    model: CausalLM, weights: WeightSource, memory: DeviceMemory
) -> Mapping[str, int | str]:
    """Say which modules go where; room for the largest block is left free on the main device.

    Returns:
        GPU, ``cpu`` or ``disk`` by the name of a module, blocks being whole.
    """
    from accelerate import infer_auto_device_map

    return infer_auto_device_map(  # type: ignore[no-any-return]
        model,
        dict(memory.limits),
        no_split_module_classes=[block.__name__ for block in model.block_classes],
        special_dtypes={name: form.dtype for name, form in weights.forms.items()},
    )


def _place(device_map: Mapping[str, int | str], name: str) -> int | str:
    """Look up the module that holds a tensor, or the nearest one around it."""
    while name and name not in device_map:
        name = name.rpartition(".")[0]
    return device_map[name]


class BroughtWeights(Mapping[str, Tensor]):
    """What accelerate brings to its device for a module's forward pass.

    Args:
        model: With its parameters tied.
        weights: What is read anew each time.
        held: Names of those that stay in host memory instead.
    """

    def __init__(self, model: CausalLM, weights: WeightSource, held: list[str]) -> None:
        first = {id(parameter): name for name, parameter in model.named_parameters()}
        self._first_name = {
            name: first[id(parameter)]
            for name, parameter in model.named_parameters(remove_duplicate=False)
        }
        self._weights = weights
        self._held = {name: weights.read(name).clone() for name in held}

    def __getitem__(self, name: str) -> Tensor:
        first = self._first_name[name]
        return self._held[first] if first in self._held else self._weights.read(first)

    def __iter__(self) -> Iterator[str]:
        return iter(self._first_name)

    def __len__(self) -> int:
        return len(self._first_name)
