"""One process, no wrapping, no process group; also the ground on which DDP and FSDP2 stand."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from distrain.dtensor import is_dtensor
from distrain.optim.state import ScalarState
from distrain.parallel.engine import OneByOne, Update, may_apply
from distrain.parallel.global_tensor import GlobalTensor, State, from_dtensor, whole
from distrain.parallel.model_spec import (
    ModelSpec,
    build_whole,
    cast_forward,
    named_persistent_buffers,
)
from distrain.parallel.ranks import Ranks


def build_single(ranks: Ranks, spec: ModelSpec) -> "SingleEngine":
    """Make the engine of one process."""
    module = build_whole(spec)
    cast_forward(module, spec)
    return SingleEngine(ranks, spec, module)


class SingleEngine(OneByOne):
    """An engine whose parameters are the model's own: see ``distrain.parallel.engine.Engine``.

    Args:
        ranks: Of the stage.
        spec: Makes the optimizer, over the parameters as they are now.
        module: The initialized model, already cut into shards if it is to be.
    """

    def __init__(self, ranks: Ranks, spec: ModelSpec, module: nn.Module) -> None:
        self.ranks = ranks
        self._module = module
        # Taken once: FSDP2 shows other parameters under these names while it has them gathered.
        self._parameters = dict(module.named_parameters())
        self._plain_name = spec.plain_name
        self._is_state = spec.is_state
        self._measured: tuple[list[Tensor], Tensor] | None = None
        """Gradients that are there, and their norm, on the device."""
        self._optimizer = spec.build_optimizer(
            (spec.plain_name(name), parameter) for name, parameter in self._parameters.items()
        )

    @property
    def model(self) -> nn.Module:
        """What the forward pass calls."""
        return self._module

    @property
    def whole_model(self) -> nn.Module | None:
        """The model itself."""
        return self._module

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Surround one microbatch."""
        del last
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Layer 7."""
        loss.backward()

    def fetch(self, sums: Tensor) -> tuple[list[float], float]:
        """Read numbers and the gradients' norm; the one wait for the device."""
        gradients = self._gradients()
        norm = self._grad_norm(gradients)
        *values, read = torch.cat([sums, norm.double().reshape(1)]).tolist()
        self._measured = gradients, norm
        return values, read

    def update(
        self, lr: float, max_grad_norm: float | None, loss: float, grad_norm: float
    ) -> Update:
        """Layer 8; waits for nothing."""
        assert self._measured is not None, "fetch comes before"
        (gradients, norm), self._measured = self._measured, None
        applied = may_apply(loss, grad_norm)
        if applied:
            self._optimizer.set_learning_rate(lr)
            # A pipeline stage whose parameters are all frozen has none.
            if max_grad_norm is not None and gradients:
                # As torch.nn.utils.clip_grads_with_norm_ does, to the bit.
                factor = torch.clamp(max_grad_norm / (norm + 1e-6), max=1.0)
                torch._foreach_mul_(gradients, factor)
            self._optimizer.torch.step()
        self._optimizer.torch.zero_grad()
        return Update(grad_norm, applied)

    def state(self, *, optimizer: bool = True) -> State:
        """Show parameters, persistent buffers and the optimizer's tensors."""
        state: State = {}
        for name, parameter in self._parameters.items():
            if self._is_state(self._plain_name(name)):
                state[f"model/{self._plain_name(name)}"] = self._show(name, parameter)
        for name, buffer in named_persistent_buffers(self._module):
            state[f"buffer/{self._plain_name(name)}"] = whole(buffer, writes=self.ranks.is_first)
        if optimizer:
            for own_name, parameter in self._parameters.items():
                if not parameter.requires_grad:
                    continue
                name = self._plain_name(own_name)
                alike, other = self._optimizer.tensors(parameter)
                for entry, tensor in alike.items():
                    state[f"{entry}/{name}"] = self._show(own_name, tensor)
                for entry, tensor in other.items():
                    state[f"{entry}/{name}"] = self._show_other(tensor)
        return state

    def optimizer_scalars(self) -> ScalarState:
        """What the optimizer keeps besides tensors."""
        trained = self._trained()
        scalars = self._optimizer.scalars(trained.values())
        return ScalarState(
            self._optimizer.name,
            {entry: dict(zip(trained, values, strict=True)) for entry, values in scalars.items()},
            self.ranks.num_shards if self._optimizer.kept.of_shards else None,
        )

    def loaded(self, optimizer: ScalarState | None) -> None:
        """Take over what was written into the boxes, which are the parameters themselves."""
        if optimizer is not None:
            self._optimizer.write_scalars(self._trained(), optimizer)

    def close(self) -> None:
        """Hold nothing that outlives the process."""

    def _trained(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by plain name."""
        return {
            self._plain_name(name): p for name, p in self._parameters.items() if p.requires_grad
        }

    def _show(self, name: str, tensor: Tensor) -> GlobalTensor:
        """Show a parameter, by its name in the module, or a tensor of its shape."""
        del name
        return whole(tensor, writes=self.ranks.is_first)

    def _show_other(self, tensor: Tensor) -> GlobalTensor:
        """Show a tensor of the optimizer's that is not shaped like its parameter."""
        if is_dtensor(tensor):
            return from_dtensor(tensor, is_copy=self.ranks.holds_same_state)
        return replace(whole(tensor, writes=self.ranks.is_first), is_claimed_equal=True)

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._parameters.values() if p.grad is not None]

    def _grad_norm(self, gradients: list[Tensor]) -> Tensor:
        """Compute the L2 norm of the global gradient, on the device."""
        return torch.nn.utils.get_total_norm(gradients)
