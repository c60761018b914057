"""Experts cut over ranks, against the same module whole: outputs and gradients."""

from unittest.mock import create_autospec

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from distrain.errors import RecipeError
from distrain.models import build_model
from distrain.parallel.experts import cut_experts, routes, shard_experts
from tests.distrain.models.transformers.families import EXPERTS, VOCAB_SIZE, bend, section
from tests.ranks import run_ranks

E, K, D = 4, 2, 32
EAGER = "eager"
ROUTINGS = {
    "even": lambda rows: torch.stack([rows % E, (rows + 1) % E], 1),
    # The second rank's experts get no token; and then one rank has none to send.
    "first two": lambda rows: torch.stack([rows % 2, (rows + 1) % 2], 1),
    "last two": lambda rows: torch.stack([rows % 2, (rows + 1) % 2], 1) + 2,
}


def experts_of(name):
    """The first experts of a small model, with values far from 0."""
    model = build_model(section(name), VOCAB_SIZE)
    bend(model)
    return next(child for path, child in model.named_modules() if path.endswith(".experts"))


def tokens(count, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, D, generator=generator).requires_grad_()
    return hidden, torch.rand(count, K, generator=generator).requires_grad_()


def run(experts, index, hidden, weights):
    """Let a square of the output flow back: gradients of inputs, and the output."""
    output = experts(hidden, index, weights)
    output.square().sum().backward()
    return output.detach(), hidden.grad, weights.grad


def gap(found, expected):
    pairs = zip(found, expected, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def differences(name, implementation, route, counts, damage=None):
    """How far the cut module is from the whole one, on this rank; (tokens, parameters)."""
    rank, mesh = dist.get_rank(), init_device_mesh("cpu", (2,), mesh_dim_names=("expert",))
    whole, cut = experts_of(name), experts_of(name)
    whole.config._experts_implementation = implementation
    parts = [tokens(count, seed) for seed, count in enumerate(counts)]
    indices = [route(torch.arange(count)) for count in counts]
    given = [pair for pair in zip(indices, parts, strict=True) if len(pair[0])]
    expected = [run(whole, index, *part) for index, part in given]
    cut_experts(cut, mesh)
    if damage is not None:
        damage()
    found = run(cut, indices[rank], *tokens(counts[rank], rank))
    own = gap(found, expected[rank]) if counts[rank] else 0.0
    names = [key for key, _ in whole.named_parameters()]
    gradients = [cut.get_parameter(key).grad.full_tensor() for key in names]
    return own, gap(gradients, [whole.get_parameter(key).grad for key in names])


def check_families():
    torch.set_num_threads(1)
    for name in EXPERTS:
        for routing, route in ROUTINGS.items():
            counts = (5, 0) if routing == "last two" else (9, 6)
            for implementation in (EAGER, "grouped_mm", "batched_mm"):
                found = differences(name, implementation, route, counts)
                assert max(found) < 3e-6, (name, routing, implementation, found)


def check_order():
    found = differences("mixtral", EAGER, ROUTINGS["even"], (9, 6), return_in_another_order)
    assert min(found) > 0.1, found


def return_in_another_order():
    def unsorted(self, rows):
        return routes._exchange(rows, self.arriving, self.sent, self.group)

    routes.Routes.to_tokens = unsorted  # type: ignore[method-assign]


def check_average():
    """One rank shards each expert, two share them: gradients are divided by two, and once."""
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("shard", "expert"))
    whole, cut = experts_of("mixtral"), experts_of("mixtral")
    index = ROUTINGS["even"](torch.arange(8))
    for seed in range(2):
        run(whole, index, *tokens(8, seed))
    cut_experts(cut, mesh["expert"])
    shard_experts(
        cut,
        mesh["shard"],
        MixedPrecisionPolicy(),
        averaged_over=2,
        reshard_after_forward=True,
    )
    run(cut, index, *tokens(8, dist.get_rank()))
    own = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    found = [parameter.grad.to_local() for parameter in cut.parameters()]
    assert gap(found, [parameter.grad[own] / 2 for parameter in whole.parameters()]) < 3e-6


def check_all():
    check_families()
    check_average()
    check_order()


@pytest.mark.axes
def test_wherever_tokens_go_outputs_and_gradients_are_those_of_the_whole_layer(tmp_path):
    run_ranks(tmp_path, 2, check_all)


class OfAnotherForm(nn.Module):
    """Experts as transformers marks them, and a parameter that has no axis of experts."""

    def __init__(self, number):
        super().__init__()
        self.num_experts = number
        self._is_expert_parallel = False
        self.weight = nn.Parameter(torch.zeros(number, 2, 2))
        self.scale = nn.Parameter(torch.zeros(7))

    def forward(self, hidden, index, weights):
        return hidden


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(2, 2), "without experts in a form that can be cut"),
        (OfAnotherForm(4), "OfAnotherForm.*axis of experts first"),
        (OfAnotherForm(7), r"the 7 experts.*a divisor of the number of experts: 1, 7\."),
    ],
    ids=["none", "another form", "number"],
)
def test_what_cannot_be_cut_is_refused(model, words):
    mesh = create_autospec(DeviceMesh, instance=True)
    mesh.size.return_value = 2
    with pytest.raises(RecipeError, match=f"parallelism.expert_parallel: found 2, .*{words}"):
        cut_experts(model, mesh)
