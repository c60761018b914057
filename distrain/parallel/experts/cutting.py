"""Cut the experts of a layer over ranks, whole ones, around the family's own code.

What is cut are modules whose weights hold all experts of a layer in their first axis, as
transformers stacks them. The module goes on to run its own code, on fewer experts: those of this
rank, for the pairs of token and expert that arrive from all ranks (``routes``).

Shape legend: as of ``routes``.
"""

from collections.abc import Callable
from inspect import signature

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from distrain.errors import RecipeError
from distrain.parallel.experts.routes import collect, plan_routes, send
from distrain.parallel.local_forward import run_local
from distrain.parallel.model_spec import ModelSpec
from distrain.parallel.ranks import Ranks

WHERE = "parallelism.expert_parallel"
MARK = "_is_expert_parallel"
"""An attribute of every module whose experts transformers stacks."""

Forward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(N, D) hidden states, (N, K) numbers of experts, (N, K) weights -> (N, D)."""


def cut(module: nn.Module, ranks: Ranks, spec: ModelSpec) -> None:
    """Cut the experts of a model as the layout says; see ``cut_experts``. Collective at first."""
    mesh = ranks.mesh(spec.device.type)
    names = tuple(name for name in ("expert", "tensor") if ranks.layout.size(name) > 1)
    if ranks.layout.size("pipeline") > 1 and not _stacked(module):
        return  # a stage of dense layers: other stages have the experts
    cut_experts(module, mesh[names], spec.compiles_blocks)


def cut_experts(module: nn.Module, mesh: DeviceMesh, compiles: bool = False) -> None:
    """Leave each rank its share of all experts, as DTensors over ``mesh``. Not collective.

    Afterwards a forward pass is collective over the expert axis, whose ranks read other rows.

    Args:
        module: The model; on the meta device or not.
        mesh: Of the expert axis first; of the tensor axis, too, where there is one: its ranks hold
            the same experts, which are not cut any further.
        compiles: Whether blocks of the model are compiled.

    Raises:
        RecipeError: There are no experts, or of another form, or their number does not divide.
    """
    degree = mesh.size(0)
    named = _stacked(module)
    if not named:
        raise RecipeError(
            WHERE,
            f"{degree}, for a model without experts in a form that can be cut",
            "a mixture of experts whose weights transformers stacks, as of mixtral or qwen3_moe",
            f"Set {WHERE} to 1.",
        )
    for name, experts in named:
        _require_form(name, experts, degree)
        _cut(experts, mesh)
        forward = _across_ranks(experts, experts.forward, mesh)
        # Their shapes follow the routing, and would be compiled anew in every step.
        experts.forward = torch.compiler.disable(forward) if compiles else forward


def _stacked(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in module.named_modules() if hasattr(child, MARK)]


def _require_form(name: str, experts: nn.Module, degree: int) -> None:
    number = _number_of(experts)
    parameters = experts.named_parameters()
    others = [key for key, value in parameters if "." in key or len(value) != number]
    if others or len(signature(experts.forward).parameters) != 3:
        raise RecipeError(
            WHERE,
            f"{degree}, for {type(experts).__name__} ({name})",
            "experts that take hidden states, numbers of experts and weights, and whose "
            "parameters all have an axis of experts first",
            f"Set {WHERE} to 1.",
        )
    if number % degree:
        fitting = ", ".join(str(size) for size in range(1, number + 1) if number % size == 0)
        raise RecipeError(
            WHERE,
            f"{degree}, for the {number} experts of {name}",
            f"a divisor of the number of experts: {fitting}",
            f"Set {WHERE} to one of these.",
        )


def _number_of(experts: nn.Module) -> int:
    number = experts.num_experts
    assert isinstance(number, int)
    return number


def _cut(experts: nn.Module, mesh: DeviceMesh) -> None:
    share = _number_of(experts) // mesh.size(0)
    placements: list[Placement] = [Shard(0), *(Replicate() for _ in range(mesh.ndim - 1))]
    first = mesh.get_local_rank(0) * share
    for key, whole in list(experts.named_parameters()):
        part = whole.detach().narrow(0, first, share).clone()
        stored = DTensor.from_local(
            part, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
        )
        experts.register_parameter(key, nn.Parameter(stored, requires_grad=whole.requires_grad))
    # What the family's code loops over; the whole number stands in the model's configuration.
    experts.num_experts = share  # type: ignore[assignment]


def _across_ranks(experts: nn.Module, run_own: Forward, mesh: DeviceMesh) -> Forward:
    group, num_experts = mesh.get_group(0), _number_of(experts) * mesh.size(0)
    reads = dict.fromkeys(experts._parameters, _local)

    def forward(hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        routes = plan_routes(index, num_experts, group)
        arrived, their_weights = send(routes, hidden, weights)
        their_index = routes.experts.unsqueeze(1)
        # A rank without pairs runs one of zeros: its parameters need a gradient, and its part of
        # the collectives of the backward pass a node that calls them.
        extra = (0, 0, 0, 0 if len(their_index) else 1)
        padded = (F.pad(of_pairs, extra) for of_pairs in (arrived, their_index, their_weights))
        output: Tensor = run_local(experts, reads, run_own, *padded)
        return collect(routes, output[: len(their_index)])

    return forward


def _local(parameter: Tensor) -> Tensor:
    assert isinstance(parameter, DTensor)
    return parameter.to_local()
