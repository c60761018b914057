"""The balancing loss of experts: transformers' own figures, and where it is none."""

import logging

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distrain.config.layout import resolve_layout
from distrain.config.models.transformers import TransformersConfig
from distrain.config.tasks import IGNORE_INDEX
from distrain.config.training import ParallelismConfig
from distrain.data.samples.loader import Microbatch
from distrain.errors import RecipeError
from distrain.models import build_model, model_on_meta
from distrain.models.balancing import BalancingRule, recording_routing, sum_routing
from distrain.parallel.collectives import HostGroup
from distrain.parallel.ranks import Ranks
from distrain.parallel.recomputation import recompute_blocks
from distrain.tasks import TASKS
from distrain.train.balancing import Balancing
from tests.distrain.models.transformers.families import MOE, SIZES, VOCAB_SIZE, bend, section

COEFFICIENT = 0.3
SIZES_OF_ALL = {
    **SIZES,
    **MOE,
    "num_local_experts": 4,
    "head_dim": 8,
    "shared_expert_intermediate_size": 24,
    "mlp_only_layers": [1],
}
OTHERS = (
    *("ernie4_5_moe", "flex_olmo", "flint", "granitemoe", "granitemoe_swa", "granitemoeshared"),
    *("laguna", "mellum", "minimax_m2", "minimax_m3_vl_text", "olmoe", "qwen2_moe"),
)
"""Families that are not in the table; their rule is found out like those of the others."""
WITH_SINKS = ("flint", "granitemoe_swa", "gpt-oss")
"""transformers runs them by its plainest attention alone, which rounds otherwise."""
TRIED = [
    "mixtral",
    "qwen3-moe",
    *(pytest.param(name, marks=pytest.mark.models) for name in ("gpt-oss", *OTHERS)),
]
B, T = 3, 24


def config_of(name, **more):
    more = {"output_router_logits": True, "router_aux_loss_coef": COEFFICIENT, **more}
    if name in OTHERS:
        return TransformersConfig(model_type=name, config={**SIZES_OF_ALL, **more})
    return section(name, **more)


def made(name, **more):
    model = build_model(config_of(name, **more), VOCAB_SIZE).train()
    bend(model)
    return model


def of_transformers(name, model):
    """The family's own module, attention and all, with the same values."""
    of = config_of(name)
    config = AutoConfig.for_model(of.model_type, **of.config, vocab_size=VOCAB_SIZE)
    attention = "eager" if name in WITH_SINKS else "sdpa"
    family = AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()
    family.load_state_dict(model.state_dict())
    return family


def microbatch(lengths):
    """Rows of one document each, filled up with padding."""
    ids = torch.randint(VOCAB_SIZE, (B, T), generator=torch.Generator().manual_seed(3))
    targets, positions = ids.roll(-1, 1), torch.arange(T, dtype=torch.int32).repeat(B, 1)
    starts = []
    for row, length in enumerate(lengths):
        targets[row, length - 1 :] = IGNORE_INDEX
        starts += [row * T] + ([row * T + length] if length < T else [])
        positions[row, length:] -= length
    ends = torch.tensor([*starts, B * T], dtype=torch.int32)
    return Microbatch(ids, targets, positions, ends, None, tuple(ends.diff().tolist()))


def balancing_of(model):
    return Balancing(model.balancing, Ranks(resolve_layout(ParallelismConfig(), 1), HostGroup()))


def measured(model, batch, balancing):
    task = TASKS["causal_lm"]
    with recording_routing() as forwards:
        sums = task.measure(model, batch)
    return balancing.add_to(sums, forwards, batch, batch.num_targets)


def backward(model, batch, balancing):
    sums = measured(model, batch, balancing)
    loss = sums.objective.sum() / batch.num_targets
    loss.backward()
    over, under = sums.others["balancing_loss"]
    return loss.detach(), (over / under).item(), gradients_of(model)


def gradients_of(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def gap(found, expected):
    assert found.keys() == expected.keys()
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    different = torch.stack([(found[name] - g).norm() for name, g in expected.items()]).norm()
    return float(different / norm)


@pytest.mark.parametrize("lengths", [(T, T, T), (T, 9, 17)], ids=["full", "padded"])
@pytest.mark.parametrize("name", TRIED)
def test_loss_and_gradients_are_those_of_transformers(name, lengths):
    model, batch = made(name), microbatch(lengths)
    family = of_transformers(name, model)
    mask = torch.arange(T) < torch.tensor(lengths).unsqueeze(1)
    labels = batch.input_ids.masked_fill(~mask, IGNORE_INDEX)
    output = family(
        batch.input_ids, attention_mask=mask.long(), labels=labels, output_router_logits=True
    )
    output.loss.backward()
    loss, figure, gradients = backward(model, batch, balancing_of(model))
    assert loss.item() == pytest.approx(output.loss.item(), rel=1e-6)
    assert figure == pytest.approx(output.aux_loss.item(), rel=1e-6)
    assert gap(gradients, gradients_of(family)) < (1e-5 if name in WITH_SINKS else 1e-6)
    # Controls: without it, and without knowing of padding, the figures are others.
    assert abs(loss.item() - measured(model, batch, balancing_of(model)).trained.item()) > 0.1
    if batch.num_targets < B * (T - 1):
        whole = sum_routing(scores_of(model, batch), model.balancing, None)
        unmasked = whole.share_of_loss(whole.counts, whole.num_tokens)
        assert abs(unmasked.item() - figure) > 1e-4


def scores_of(model, batch):
    with recording_routing() as forwards:
        TASKS["causal_lm"].measure(model, batch)
    return forwards


def test_blocks_made_again_change_no_bit():
    batch = microbatch((T, 9, 17))
    plain, recomputed = made("qwen3-moe"), made("qwen3-moe")
    recompute_blocks(recomputed, recomputed.block_classes, 1)
    loss, _, gradients = backward(plain, batch, balancing_of(plain))
    again, _, found = backward(recomputed, batch, balancing_of(recomputed))
    assert again.equal(loss)
    assert all(found[name].equal(gradients[name]) for name in gradients)


def test_even_routing_has_the_least_loss():
    rule = BalancingRule(experts_per_token=2, coefficient=1.0)
    even = torch.eye(4) * 3 + torch.eye(4).roll(1, 0) * 3
    for scores, loss in ((even, 2.0), (torch.tensor([[9.0, 9.0, 0.0, 0.0]] * 4), 4.0)):
        sums = sum_routing([(scores,)], rule, None)
        found = sums.share_of_loss(sums.counts, sums.num_tokens)
        assert found.item() == pytest.approx(loss, rel=1e-3)


def test_shares_of_parts_sum_up_and_losses_of_parts_do_not():
    rule = BalancingRule(experts_per_token=2, coefficient=1.0)
    scores = torch.randn(40, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, *parts = (sum_routing([(s,)], rule, None) for s in (scores, scores[:8], scores[8:]))
    loss = whole.share_of_loss(whole.counts, whole.num_tokens)
    shares = [part.share_of_loss(whole.counts, whole.num_tokens) for part in parts]
    assert torch.stack(shares).sum().item() == pytest.approx(loss.item(), rel=1e-12)
    alone = [part.share_of_loss(part.counts, part.num_tokens) for part in parts]
    assert abs(0.2 * alone[0] + 0.8 * alone[1] - loss) > 1e-3  # control: the mean of the parts


@pytest.mark.parametrize(
    ("name", "more", "is_said"),
    [
        ("mixtral", {"output_router_logits": False}, False),
        ("mixtral", {"router_aux_loss_coef": 0.0}, True),
        ("deepseek-v3", {}, True),
        ("qwen3-moe", {"mlp_only_layers": [0, 1]}, True),
        ("qwen3", {"output_router_logits": False}, False),
    ],
)
def test_what_has_no_effect_records_nothing_and_is_said(name, more, is_said, caplog):
    if name == "qwen3":
        model = build_model(section(name), VOCAB_SIZE).train()
        bend(model)
    else:
        model = made(name, **more)
    assert model.balancing is None
    assert scores_of(model, microbatch((T, T, T))) == []
    with caplog.at_level(logging.WARNING):
        model.require_separate_documents(model)
    assert ("output_router_logits" in caplog.text) == is_said


def test_a_forward_pass_without_gradients_is_not_recorded():
    model = made("mixtral")
    with torch.no_grad():
        assert scores_of(model, microbatch((T, T, T))) == []
    assert len(scores_of(model, microbatch((T, T, T)))) == 1


def test_a_balancing_loss_of_another_form_is_refused(monkeypatch):
    from transformers.models.mixtral import modeling_mixtral

    own = modeling_mixtral.load_balancing_loss_func
    monkeypatch.setattr(
        modeling_mixtral, "load_balancing_loss_func", lambda *given: own(*given) ** 2
    )
    with pytest.raises(RecipeError, match=r"output_router_logits.*mixtral.*one of its own"):
        model_on_meta(config_of("mixtral"), VOCAB_SIZE)
