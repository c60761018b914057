"""Parameters, gradients and moments cut over ranks, gathered block by block (torch FSDP2).

With ``dp_replicate > 1`` the shards are replicated in turn (HSDP): cut within a group of
``dp_shard`` ranks, averaged over the groups.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from distrain.optim.state import ScalarState
from distrain.parallel.cuts import cut_along_axes
from distrain.parallel.engines.single import SingleEngine
from distrain.parallel.experts import shard_experts
from distrain.parallel.global_tensor import GlobalTensor, from_dtensor
from distrain.parallel.model_spec import ModelSpec, build_on_meta, materialize
from distrain.parallel.ranks import Ranks


def build_fsdp(ranks: Ranks, spec: ModelSpec) -> "FsdpEngine":
    """Make the engine that shards. Collective."""
    module = build_on_meta(spec)
    cut_along_axes(module, ranks, spec)
    shard(module, ranks, spec)
    # Only now memory: the parameters of a rank are its shards from the first moment on.
    materialize(module, spec)
    return FsdpEngine(ranks, spec, module)


def shard(module: nn.Module, ranks: Ranks, spec: ModelSpec) -> None:
    """Let FSDP2 cut what is on the meta device: block by block, then the root. Collective."""
    mesh = ranks.shard_mesh(spec.device.type)
    policy = MixedPrecisionPolicy()
    if spec.precision == "bf16":
        # Sums over ranks in fp32: in bf16, small gradients would be lost among many ranks.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    resharded = spec.parallelism.reshard_after_forward
    if ranks.layout.size("expert") > 1:
        shard_experts(
            module,
            ranks.shard_mesh(spec.device.type, without=("expert",)),
            policy,
            averaged_over=ranks.averaged_over,
            reshard_after_forward=resharded,
        )
    # Blocks before the root, which takes what no block has: embedding, norm and output layer.
    classes = spec.block_classes(module)
    for block in [child for child in module.modules() if isinstance(child, classes)]:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=resharded)
    fully_shard(module, mesh=mesh, mp_policy=policy)


class FsdpEngine(SingleEngine):
    """Parameters are DTensors: cut along their first axis, and as further axes have cut them."""

    def __init__(self, ranks: Ranks, spec: ModelSpec, module: nn.Module) -> None:
        super().__init__(ranks, spec, module)
        self._wrapped = [child for child in module.modules() if isinstance(child, FSDPModule)]
        self._replica_group = ranks.replica_group
        self._packed = {
            f"{path}.{name}" if path else name: sizes
            for path, child in module.named_modules()
            for name, sizes in getattr(child, "packed", {}).items()
        }
        self._counts = [_counts_here(parameter, ranks) for parameter in self._parameters.values()]

    @property
    def whole_model(self) -> nn.Module | None:
        """Nothing: its parameters are gathered by the forward pass of all ranks."""
        return None

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Surround one microbatch; gradients are reduced in the last one."""
        self._wrapped[0].set_requires_gradient_sync(last)  # the root, which tells the blocks
        return nullcontext()

    def loaded(self, optimizer: ScalarState | None) -> None:
        """Take over what was written into the boxes."""
        super().loaded(optimizer)
        # A forward pass without a backward leaves the root gathered, now out of date.
        for module in self._wrapped:
            module.reshard()

    def _show(self, name: str, tensor: Tensor) -> GlobalTensor:
        assert isinstance(tensor, DTensor)
        is_copy = self.ranks.holds_same_state
        return from_dtensor(tensor, is_copy=is_copy, packed=self._packed.get(name, ()))

    def _gradients(self) -> list[Tensor]:
        # The local shards: the same figures as through DTensor, which dispatches every operation
        # on every parameter in Python.
        with torch.no_grad():  # so that a shard is taken as it is, and not as a view for autograd
            return [_local(gradient) for gradient in super()._gradients()]

    def _grad_norm(self, gradients: list[Tensor]) -> Tensor:
        # What several ranks of a replica hold alike counts on one of them.
        counted = gradients
        if not all(self._counts):
            here = zip(self._parameters.values(), self._counts, strict=True)
            counts = [counts for parameter, counts in here if parameter.grad is not None]
            counted = [g for g, is_counted in zip(gradients, counts, strict=True) if is_counted]
        square = super()._grad_norm(counted).square()
        if not counted:  # of nothing, torch returns a float32 on the host
            like = next(iter(self._parameters.values()))
            square = square.to(like.device, like.dtype)
        # Within one replica: its shards are the whole gradient, and the other replicas hold the
        # same.
        dist.all_reduce(square, group=self._replica_group)
        return square.sqrt()


def _counts_here(parameter: Tensor, ranks: Ranks) -> bool:
    """Return whether no earlier rank of the replica holds the same part of a parameter."""
    assert isinstance(parameter, DTensor)
    mesh = parameter.device_mesh
    placed = zip(mesh.mesh_dim_names or (), parameter.placements, strict=True)
    return not any(
        placement.is_replicate() and name != "replicate" and ranks.place[name]
        for name, placement in placed
    )


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's shard, without a copy."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local()
