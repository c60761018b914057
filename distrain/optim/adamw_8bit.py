"""AdamW with moments of 8 bits, by bitsandbytes' kernel (arXiv 2110.02861), on what a rank holds.

The moments are cut into blocks of 256 elements of the rank's own memory, each with a scale. So a
checkpoint fits the number of shards that it was saved with, and no other: where blocks begin would
change, and with it what they hold.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distrain.config.optimizers import AdamW8bitConfig
from distrain.errors import RecipeError
from distrain.optim.adam import adam_state, step_adamw
from distrain.optim.elementwise import local, own_settings
from distrain.optim.groups import ParameterGroup, as_torch
from distrain.optim.own import OwnOptimizer
from distrain.optim.shards import cut_like, shard_group
from distrain.optim.state import Scalar

BLOCK = 256
"""Elements that share a scale; the kernel's own."""


def adamw_8bit(groups: list[ParameterGroup], config: AdamW8bitConfig) -> Optimizer:
    """Build it.

    Raises:
        RecipeError: bitsandbytes is not installed, or parameters are fp64.
    """
    if any(p.dtype == torch.float64 for group in groups for p in group["params"]):
        raise RecipeError(
            "training.precision",
            f"fp64 with optimizer.name {config.name}, whose kernel has no such type",
            "fp32 or bf16",
            "Set training.precision to fp32.",
        )
    return AdamW8bit(groups, config)


def adamw_8bit_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor | Scalar]:
    """Make what the first step would make."""
    if parameter.numel() < optimizer.defaults["min_8bit_size"]:
        return adam_state(optimizer, parameter)
    held, group = local(parameter), shard_group(parameter)
    ranks = 1 if group is None else group.size()
    # Even, so that it is cut evenly: of the rank with the most rows.
    most = -(-parameter.shape[0] // ranks) * (parameter.numel() // parameter.shape[0])
    blocks = -(-most // BLOCK)
    state: dict[str, Tensor | Scalar] = {"step": torch.zeros(())}
    for number in (1, 2):
        moment = torch.zeros_like(held, dtype=torch.uint8, memory_format=torch.contiguous_format)
        state[f"state{number}"] = cut_like(parameter, moment, parameter.shape)
        scales = held.new_zeros((1, blocks), dtype=torch.float32)
        state[f"absmax{number}"] = cut_like(parameter, scales, (ranks, blocks))
    return state


class AdamW8bit(OwnOptimizer):
    """Steps large parameters by bitsandbytes, small ones by torch's AdamW."""

    def __init__(self, groups: list[ParameterGroup], config: AdamW8bitConfig) -> None:
        self._kernels = _import_bitsandbytes()
        self._maps: dict[torch.device, tuple[Tensor, Tensor]] = {}
        super().__init__(as_torch(groups), own_settings(config))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "the loop computes the gradients"
        for group in self.param_groups:
            small = list[Tensor]()
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(adamw_8bit_state(self, parameter))
                if "state1" in state:
                    self._step_large(parameter, state, group)
                else:
                    small.append(parameter)
            if small:
                step_adamw(small, self.state, group)

    def _step_large(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state["step"] += 1
        held = local(parameter)
        if not held.numel():  # fewer rows than ranks
            return
        (beta1, beta2), (signed, unsigned) = group["betas"], self._maps_on(held.device)
        blocks = -(-held.numel() // BLOCK)
        scales = [local(state[f"absmax{number}"])[0, :blocks] for number in (1, 2)]
        self._kernels.optimizer_update_8bit_blockwise(
            "adam",  # which decays as AdamW does
            local(parameter.grad).contiguous(),
            held,
            *(local(state[f"state{number}"]) for number in (1, 2)),
            beta1,
            beta2,
            0.0,
            0.0,
            group["eps"],
            int(state["step"]),
            group["lr"],
            signed,
            unsigned,
            *scales,
            weight_decay=group["weight_decay"],
        )

    def _maps_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return what the 256 codes of the two moments stand for."""
        if device not in self._maps:
            signed, unsigned = (
                self._kernels.create_dynamic_map(signed=signed).to(device)
                for signed in (True, False)
            )
            self._maps[device] = signed, unsigned
        return self._maps[device]


def _import_bitsandbytes() -> ModuleType:
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise RecipeError(
            "optimizer.name",
            f"an optimizer of bitsandbytes, which cannot be imported here ({error})",
            "an installed one, such as adamw",
            "Install distrain[bitsandbytes], or set optimizer.name to adamw.",
        ) from error
    module: ModuleType = functional
    return module
