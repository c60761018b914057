"""One process, no wrapping, no process group; also the ground on which DDP and FSDP2 stand."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distrain.config.layout import Layout
from distrain.parallel.adam_state import MOMENTS, adam_steps, create_state, set_step
from distrain.parallel.engine import Update, may_apply
from distrain.parallel.global_tensor import GlobalTensor, State, whole
from distrain.parallel.model_spec import (
    ModelSpec,
    build_whole,
    cast_forward,
    named_persistent_buffers,
)


def build_single(layout: Layout, spec: ModelSpec) -> "SingleEngine":
    """Make the engine of one process."""
    del layout
    module = build_whole(spec)
    cast_forward(module, spec)
    return SingleEngine(spec, module)


class SingleEngine:
    """An engine whose parameters are the model's own: see ``distrain.parallel.engine.Engine``.

    Args:
        spec: Makes the optimizer, over the parameters as they are now.
        module: The initialised model, already cut into shards if it is to be.
    """

    dp_rank = 0
    dp_size = 1

    def __init__(self, spec: ModelSpec, module: nn.Module) -> None:
        self._module = module
        # Taken once: FSDP2 shows other parameters under these names while it has them gathered.
        self._parameters = dict(module.named_parameters())
        self._plain_name = spec.plain_name
        self._optimizer: Optimizer = spec.build_optimizer(self._parameters.items())

    @property
    def model(self) -> nn.Module:
        """What the forward pass calls."""
        return self._module

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Surround one microbatch."""
        del last
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Layer 7."""
        loss.backward()

    def update(self, lr: float, max_grad_norm: float, loss: float) -> Update:
        """Layer 8. The host waits for the device once, to learn the norm."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        norm = self._clip(max_grad_norm)
        applied = may_apply(loss, norm)
        if applied:
            self._optimizer.step()
        self._optimizer.zero_grad()
        return Update(norm, applied)

    def state(self, *, optimizer: bool = True) -> State:
        """Show parameters, persistent buffers and moments."""
        state: State = {}
        for name, parameter in self._parameters.items():
            state[f"model/{self._plain_name(name)}"] = self._show(parameter)
        for name, buffer in named_persistent_buffers(self._module):
            state[f"buffer/{self._plain_name(name)}"] = whole(buffer, writes=self.dp_rank == 0)
        if optimizer:
            for name, parameter in self._trained():
                create_state(self._optimizer, parameter)
                for moment in MOMENTS:
                    tensor = self._optimizer.state[parameter][moment]
                    state[f"{moment}/{self._plain_name(name)}"] = self._show(tensor)
        return state

    def optimizer_steps(self) -> dict[str, int]:
        """Adam's step of each trained parameter."""
        steps = adam_steps(self._optimizer, [parameter for _, parameter in self._trained()])
        names = [self._plain_name(name) for name, _ in self._trained()]
        return dict(zip(names, steps, strict=True))

    def loaded(self, optimizer_steps: dict[str, int] | None) -> None:
        """Take over what was written into the boxes, which are the parameters themselves."""
        if optimizer_steps is None:
            return
        for name, parameter in self._trained():
            set_step(self._optimizer, parameter, optimizer_steps[self._plain_name(name)])

    def close(self) -> None:
        """Hold nothing that outlives the process."""

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self._parameters.items() if p.requires_grad)

    def _show(self, tensor: Tensor) -> GlobalTensor:
        return whole(tensor, writes=self.dp_rank == 0)

    def _clip(self, max_grad_norm: float) -> float:
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(self._parameters.values(), max_grad_norm, norm)
        return norm.item()
