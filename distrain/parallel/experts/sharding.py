"""Shard what a rank holds of the experts (torch FSDP2): apart from the rest of the model."""

from dataclasses import replace

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from distrain.parallel.experts.cutting import MARK


def shard_experts(
    module: nn.Module,
    mesh: DeviceMesh,
    policy: MixedPrecisionPolicy,
    *,
    averaged_over: int,
    reshard_after_forward: bool,
) -> None:
    """Wrap what ``cut_experts`` has cut, before the blocks around it. Collective.

    Args:
        module: The model.
        mesh: Of the ranks that hold the same experts: (shard,) or (replicate, shard).
        policy: Of the whole model.
        averaged_over: By what gradients of all other parameters are divided.
        reshard_after_forward: Free gathered experts after their forward pass.
    """
    # Weights of routers keep their type: without a cut, experts are given it as well.
    policy = replace(policy, cast_forward_inputs=False)
    for experts in [child for child in module.modules() if hasattr(child, MARK)]:
        wrapped = fully_shard(
            experts, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward
        )
        assert isinstance(wrapped, FSDPModule)
        # All tokens of the expert axis have arrived here already, so the gradient is their sum;
        # divided by the size of this mesh alone, it would be too large by that of the expert axis.
        wrapped.set_gradient_divide_factor(averaged_over)
        # gloo cannot multiply while it sums up. A group of one, which sums nothing up, is left as
        # it is: FSDP2 would divide twice.
        wrapped.set_force_sum_reduction_for_comms(mesh.size(-1) > 1)
