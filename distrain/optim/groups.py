"""Parameter groups: the parameters that are trained, with and without weight decay."""

from collections.abc import Iterable
from typing import TypedDict

from torch import nn


class ParameterGroup(TypedDict):
    """One parameter group, as torch's optimizers take it."""

    params: list[nn.Parameter]
    weight_decay: float
    lr_ratio: float
    """The group's learning rate over that of the schedule."""


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[ParameterGroup]:
    """Put matrices into a group that decays and the rest (norms, biases) into one that does not.

    Frozen parameters are in neither: some engines would let them decay. Within a group the
    parameters keep their order; an empty group is left out.

    Raises:
        ValueError: Nothing is trainable.
    """
    trainable = [parameter for _, parameter in named_parameters if parameter.requires_grad]
    if not trainable:
        raise ValueError("found no parameter with requires_grad=True; expected at least one")
    # An FSDP2 shard counts the axes of the whole parameter, so all engines group alike.
    matrices = [parameter for parameter in trainable if parameter.ndim >= 2]
    others = [parameter for parameter in trainable if parameter.ndim < 2]
    groups = [
        ParameterGroup(params=matrices, weight_decay=weight_decay, lr_ratio=1.0),
        ParameterGroup(params=others, weight_decay=0.0, lr_ratio=1.0),
    ]
    return [group for group in groups if group["params"]]
