"""Find a parameter in DeepSpeed's ZeRO optimizers: the one file that reads their attributes.

None of these is public; they are what DeepSpeed's own universal checkpoint uses (0.19). ZeRO lays
the trained parameters of a group end to end in one flat buffer, cut over the ranks. Stages 1 and
2 cut the buffer, so a parameter may lie on one rank, on two or on none; stage 3 cuts each
parameter and pads it to a multiple of the ranks. Padding is never shown. Frozen parameters are in
no buffer: whole on every rank in stages 1 and 2, cut like the others in stage 3.
"""

from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distrain.parallel.global_tensor import GlobalTensor, from_flat_range, whole


@dataclass(frozen=True)
class Fragment:
    """This rank's part of one trained parameter, a row-major range; it may be empty.

    Args:
        shape: Of the whole parameter.
        group: Number of the flat buffer.
        start: First element, counted in the parameter.
        offset: First element, counted in this rank's part of the buffer.
        numel: Elements, without padding.
    """

    shape: tuple[int, ...]
    group: int
    start: int
    offset: int
    numel: int

    def of(self, buffer: Tensor) -> GlobalTensor:
        """Show the part of ``buffer`` (masters or a moment of them) that is this parameter."""
        values = buffer.detach().narrow(0, self.offset, self.numel)
        return from_flat_range(self.shape, self.start, values)


class Partition(Protocol):
    """Access to the parameters as one ZeRO stage keeps them.

    Args:
        masters: This rank's part of each flat buffer, fp32.
    """

    masters: list[Tensor]

    def fragment(self, parameter: nn.Parameter) -> Fragment:
        """Find a trained parameter."""

    def frozen(self, parameter: nn.Parameter) -> GlobalTensor:
        """Show a parameter that is not trained."""

    def publish(self) -> None:
        """Copy what was written into masters and frozen parameters to the model. Collective."""


class FlatPartition:
    """Stages 1 and 2."""

    def __init__(self, zero: "_Zero12") -> None:
        self.masters = zero.single_partition_of_fp32_groups
        self._zero = zero
        self._group_of = {
            id(parameter): group
            for group, parameters in enumerate(zero.bit16_groups)
            for parameter in parameters
        }

    def fragment(self, parameter: nn.Parameter) -> Fragment:
        """Find a trained parameter."""
        group, shape = self._group_of[id(parameter)], tuple(parameter.shape)
        mapping = cast("_FlatParameter", parameter)._hp_mapping
        if mapping is None:  # nothing of it on this rank
            return Fragment(shape, group, 0, 0, 0)
        part, place = mapping.lp_fragment_address, mapping.hp_fragment_address
        return Fragment(shape, group, part.start, place.start, place.numel)

    def frozen(self, parameter: nn.Parameter) -> GlobalTensor:
        """Show a parameter that is not trained."""
        return whole(parameter, writes=dist.get_rank() == 0)

    def publish(self) -> None:
        """Copy masters into the working weights of all ranks; frozen ones are in place."""
        self._zero.update_lp_params()


class ShardedPartition:
    """Stage 3."""

    def __init__(self, zero: "_Zero3") -> None:
        self.masters = zero.fp32_partitioned_groups_flat
        self._zero = zero
        self._fragments: dict[int, Fragment] = {}
        for group, parameters in enumerate(zero.fp16_groups):
            offset = 0
            for parameter in parameters:
                # That the buffer holds the group in this order is DeepSpeed's choice: a release
                # that lays it out in another way stops here, instead of writing weights under wrong
                # names.
                assert zero.grad_position[zero.get_param_id(parameter)][1] == offset
                sharded = cast("_ShardedParameter", parameter)
                start, numel = _shard_range(sharded)
                shape = tuple(sharded.ds_shape)
                self._fragments[id(parameter)] = Fragment(shape, group, start, offset, numel)
                offset += sharded.partition_numel()

    def fragment(self, parameter: nn.Parameter) -> Fragment:
        """Find a trained parameter."""
        return self._fragments[id(parameter)]

    def frozen(self, parameter: nn.Parameter) -> GlobalTensor:
        """Show a parameter that is not trained."""
        sharded = cast("_ShardedParameter", parameter)
        start, numel = _shard_range(sharded)
        values = sharded.ds_tensor.detach().narrow(0, 0, numel)
        return from_flat_range(tuple(sharded.ds_shape), start, values)

    def publish(self) -> None:
        """Copy masters into the working shards, and gather anew what stays gathered."""
        self._zero._partition_all_parameters()
        for group in range(len(self.masters)):
            self._zero._reassign_or_swap_out_partitioned_parameters(group)
        # Small ones stay gathered between steps: what they hold now is from before the load.
        persistent = self._zero.persistent_parameters
        if persistent:
            persistent[0].all_gather(persistent)


def _shard_range(parameter: "_ShardedParameter") -> tuple[int, int]:
    """(first element, number of elements) of this rank's shard, without padding."""
    start = dist.get_rank(parameter.ds_process_group) * parameter.partition_numel()
    numel = min(parameter.partition_numel(), parameter.ds_numel - start)
    # The last ranks may hold nothing but padding.
    return (start, numel) if numel > 0 else (0, 0)


class _Address(Protocol):
    start: int
    numel: int


class _FlatMapping(Protocol):
    lp_fragment_address: _Address
    """Place in the parameter."""
    hp_fragment_address: _Address
    """Place in this rank's part of the flat master."""


class _FlatParameter(Protocol):
    _hp_mapping: _FlatMapping | None


class _Zero12(Protocol):
    """The attributes read of ``DeepSpeedZeroOptimizer``."""

    single_partition_of_fp32_groups: list[Tensor]
    bit16_groups: list[list[nn.Parameter]]

    def update_lp_params(self) -> None: ...


class _ShardedParameter(Protocol):
    ds_shape: torch.Size
    ds_numel: int
    ds_tensor: Tensor
    ds_process_group: dist.ProcessGroup

    def partition_numel(self) -> int: ...


class _Persistent(Protocol):
    def all_gather(self, parameters: list["_Persistent"]) -> None: ...


class _Zero3(Protocol):
    """The attributes read of ``DeepSpeedZeroOptimizer_Stage3``."""

    fp32_partitioned_groups_flat: list[Tensor]
    fp16_groups: list[list[nn.Parameter]]
    grad_position: dict[int, list[int]]
    """Parameter id -> (group, offset in the group's buffer, number of elements)."""
    persistent_parameters: list[_Persistent]

    def get_param_id(self, parameter: nn.Parameter) -> int: ...
    def _partition_all_parameters(self) -> None: ...
    def _reassign_or_swap_out_partitioned_parameters(self, group: int) -> None: ...
