"""Parameters, gradients and moments cut over ranks, gathered block by block (torch FSDP2).

With ``dp_replicate > 1`` the shards are replicated in turn (HSDP): cut within a group of
``dp_shard`` ranks, averaged over the groups.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from distrain.optim.state import ScalarState
from distrain.parallel.engines.single import SingleEngine
from distrain.parallel.global_tensor import GlobalTensor, from_dtensor
from distrain.parallel.model_spec import ModelSpec, build_on_meta, materialize
from distrain.parallel.ranks import Ranks


def build_fsdp(ranks: Ranks, spec: ModelSpec) -> "FsdpEngine":
    """Make the engine that shards. Collective."""
    mesh = ranks.data_mesh(spec.device.type)
    policy = MixedPrecisionPolicy()
    if spec.precision == "bf16":
        # Sums over ranks in fp32: in bf16, small gradients would be lost among many ranks.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    module = build_on_meta(spec)
    # Blocks before the root, which takes what no block has: embedding, norm and output layer.
    classes = spec.block_classes(module)
    for block in [child for child in module.modules() if isinstance(child, classes)]:
        fully_shard(
            block,
            mesh=mesh,
            mp_policy=policy,
            reshard_after_forward=spec.reshard_after_forward,
        )
    fully_shard(module, mesh=mesh, mp_policy=policy)
    # Only now memory: the parameters of a rank are its shards from the first moment on.
    materialize(module, spec)
    return FsdpEngine(ranks, spec, module, mesh)


class FsdpEngine(SingleEngine):
    """Parameters are DTensors, cut along their first axis."""

    def __init__(self, ranks: Ranks, spec: ModelSpec, module: nn.Module, mesh: DeviceMesh) -> None:
        super().__init__(ranks, spec, module)
        self._wrapped = [child for child in module.modules() if isinstance(child, FSDPModule)]
        self._shard_group = mesh.get_group("shard")

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

    def _show(self, tensor: Tensor) -> GlobalTensor:
        assert isinstance(tensor, DTensor)
        return from_dtensor(tensor, is_copy=self.ranks.is_copy)

    def _gradients(self) -> list[Tensor]:
        # The local shards: the same figures as through DTensor, which dispatches every operation
        # on every parameter in Python.
        with torch.no_grad():  # so that a shard is taken as it is, and not as a view for autograd
            return [_local(gradient) for gradient in super()._gradients()]

    def _grad_norm(self, gradients: list[Tensor]) -> Tensor:
        square = super()._grad_norm(gradients).square()
        # Within one replica: its shards are the whole gradient, and the other replicas hold the
        # same.
        dist.all_reduce(square, group=self._shard_group)
        return square.sqrt()


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's shard, without a copy."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local()
