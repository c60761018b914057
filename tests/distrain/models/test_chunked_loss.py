"""The loss in chunks against the plain one: values, gradients, memory, and what it refuses."""

from typing import Any

import pytest
import torch

from distrain.config.tasks import IGNORE_INDEX
from distrain.loss import LossTerms, target_losses
from distrain.models.chunked_loss import ChunkedLoss

B, T, D, V = 3, 10, 6, 37
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 3.0},
    "softcap": {"softcap": 1.5, "bias": True},
    "label smoothing": {"terms": LossTerms(label_smoothing=0.2)},
    "z-loss": {"terms": LossTerms(z_loss=0.3)},
    "all": {
        "bias": True,
        "scale": 2.0,
        "softcap": 3.0,
        "terms": LossTerms(label_smoothing=0.1, z_loss=0.2),
    },
}
ROWS = {"one sum": (3,), "groups": (2, 1), "an empty group": (2, 0, 1), "targets": None}
FACTORS = {1: [0.7], 2: [0.7, -1.3], 3: [0.7, 5.0, -1.3]}


class Problem:
    """Inputs of an output layer, and losses of it computed in both ways."""

    def __init__(self, dtype=torch.float64, *, bias=False, scale=1.0, softcap=None, terms=None):
        dice = torch.Generator().manual_seed(5)
        self.hidden = torch.randn(B, T, D, dtype=dtype, generator=dice)
        self.weight = torch.randn(V, D, dtype=dtype, generator=dice)
        self.bias = torch.randn(V, dtype=dtype, generator=dice) if bias else None
        self.targets = torch.randint(V, (B, T), generator=dice)
        self.targets[torch.rand(B, T, generator=dice) < 0.3] = IGNORE_INDEX
        self.scale, self.softcap, self.terms = scale, softcap, terms or LossTerms()

    def inputs(self):
        found = (self.hidden, self.weight, self.bias)
        return [t if t is None else t.clone().requires_grad_() for t in found]

    def plain(self, rows, inputs):
        hidden, weight, bias = inputs
        logits = torch.nn.functional.linear(hidden, weight, bias) * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return target_losses(logits, self.targets, rows, self.terms)

    def chunked(self, rows, inputs, chunk_tokens=4, **changes):
        settings = {"scale": self.scale, "softcap": self.softcap, "terms": self.terms} | changes
        hidden, weight, bias = inputs
        return ChunkedLoss(chunk_tokens, **settings)(hidden, weight, bias, self.targets, rows)

    def compare(self, rows, **changes):
        """Largest difference of losses and of gradients, each over the largest value."""
        expected: list[torch.Tensor] = []
        found: list[torch.Tensor] = []
        for compute, results, more in (
            (self.plain, expected, {}),
            (self.chunked, found, changes),
        ):
            inputs = self.inputs()
            losses = compute(rows, inputs, **more)
            factors = torch.tensor(FACTORS.get(losses.numel(), [1.0]), dtype=losses.dtype)
            if rows is None:
                factors = torch.linspace(-1, 2, B * T, dtype=losses.dtype).view(B, T)
            (losses * factors).sum().backward()
            results += [losses.detach(), *(t.grad for t in inputs if t is not None)]
        assert [t.dtype for t in found] == [t.dtype for t in expected]
        pairs = zip(found, expected, strict=True)
        return [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_the_whole_logits(case, rows):
    problem = Problem(**CASES[case])
    assert max(problem.compare(ROWS[rows])) < 1e-12
    # As good as plain float32 is, too.
    losses, *gradients = Problem(torch.float32, **CASES[case]).compare(ROWS[rows])
    assert losses < 1e-6
    assert max(gradients) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 1.001},
        {"softcap": 3.01},
        {"terms": LossTerms(label_smoothing=0.1, z_loss=0.2001)},
        {"terms": LossTerms(label_smoothing=0.11, z_loss=0.2)},
    ],
)
def test_any_other_setting_is_seen_by_that_comparison(changes):
    problem = Problem(**CASES["all"])
    assert max(problem.compare((3,), **changes)) > 1e-5


@pytest.mark.parametrize("chunk_tokens", [1, 7, 10, 29, 30, 1000])
def test_chunks_of_any_size_give_the_same(chunk_tokens):
    assert max(Problem().compare((3,), chunk_tokens=chunk_tokens)) < 1e-12


def test_the_terms_are_what_their_papers_say():
    problem = Problem(terms=LossTerms(label_smoothing=0.2, z_loss=0.3))
    log_p = torch.log_softmax(problem.hidden @ problem.weight.T, -1)
    log_z = torch.logsumexp(problem.hidden @ problem.weight.T, -1)
    kept = problem.targets != IGNORE_INDEX
    own = log_p.gather(-1, problem.targets.clamp(0).unsqueeze(-1)).squeeze(-1)
    expected = (-0.8 * own - 0.2 * log_p.mean(-1) + 0.3 * log_z**2) * kept
    for compute in (problem.plain, problem.chunked):
        torch.testing.assert_close(compute(None, problem.inputs()).detach(), expected)


def test_the_sum_of_a_group_does_not_depend_on_its_neighbours():
    problem = Problem(torch.float32)
    both = problem.chunked((2, 1), problem.inputs())
    problem.hidden, problem.targets = problem.hidden[2:], problem.targets[2:]
    assert both[1].equal(problem.chunked((1,), problem.inputs())[0])


def test_without_targets_nothing_is_lost_and_nothing_flows():
    problem = Problem()
    problem.targets.fill_(IGNORE_INDEX)
    inputs = problem.inputs()
    loss = problem.chunked((3,), inputs)
    loss.sum().backward()
    assert loss.item() == 0
    assert not any(t.grad.any() for t in inputs if t is not None)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(frozen):
    problem = Problem(bias=True)
    gradients = []
    for compute in (problem.plain, problem.chunked):
        inputs = problem.inputs()
        inputs[frozen].requires_grad_(False)
        compute((3,), inputs).sum().backward()
        gradients.append([t.grad for t in inputs])
    assert gradients[1][frozen] is None
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_frozen_weight_costs_no_gradient_of_its_size(is_frozen):
    problem = Problem()
    hidden, weight, _ = problem.inputs()
    weight.requires_grad_(not is_frozen)
    loss = problem.chunked((3,), [hidden, weight, None])
    held = [t for t in vars(loss.grad_fn.gradients).values() if isinstance(t, torch.Tensor)]
    assert [tuple(t.shape) for t in held] == [(B * T, D), (V, D)][: 1 if is_frozen else 2]


@pytest.mark.parametrize(("rows", "again"), [((3,), {}), ((2, 1), {"create_graph": True})])
def test_gradients_have_none_of_their_own_and_are_handed_out_once(rows, again):
    problem = Problem()
    hidden, weight, _ = problem.inputs()
    loss = problem.chunked(rows, [hidden, weight, None]).sum()
    torch.autograd.grad(loss, hidden, retain_graph=True)
    with pytest.raises(RuntimeError, match=r"taken once.*chunk_tokens to null"):
        torch.autograd.grad(loss, hidden, **again)


@pytest.mark.parametrize("rows", [(3,), (2, 1)])
def test_bf16_rounds_products_alone_and_adds_up_the_gradient_of_the_weight_in_fp32(rows):
    problem = Problem(torch.float32, bias=True)
    problem.hidden = problem.hidden.repeat(1, 40, 1)
    problem.targets = problem.targets.repeat(1, 40)
    results = []
    for compute, is_autocast in (
        (problem.plain, False),
        (problem.plain, True),
        (problem.chunked, True),
    ):
        inputs = problem.inputs()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
            losses = compute(rows, inputs)
        losses.sum().backward()
        results.append([losses.detach(), *(t.grad for t in inputs)])
    exact, plain, chunked = results
    assert [t.dtype for t in chunked] == [torch.float32] * 4
    for a, b in zip(chunked, plain, strict=True):
        assert (a - b).norm() / b.norm() < 0.02
    # Not rounded to 8 bits after every chunk: as near to float32 as if it was made at once.
    errors = [float((r[2] - exact[2]).norm() / exact[2].norm()) for r in (plain, chunked)]
    assert errors[1] < 1.2 * errors[0]


def test_shapes_that_disagree_are_named():
    problem = Problem()
    hidden, weight, _ = problem.inputs()
    with pytest.raises(ValueError, match=r"hidden states \(3, 9, 6\) and targets \(3, 10\)"):
        problem.chunked((3,), [hidden[:, :9], weight, None])
    with pytest.raises(ValueError, match=r"groups of \(1, 1\) rows in a batch of 3"):
        problem.chunked((1, 1), [hidden, weight, None])
