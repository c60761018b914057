"""What is particular to one kernel: whole rows, blocks, memory, chance."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from distrain.models.attention import AttentionRule, attend, plan_attention, undivided
from distrain.models.attention.blocks import query_blocks
from distrain.models.attention.sdpa import block_size
from distrain.models.attention.softmax import BLOCK, explicit_attention, softmax_attention
from tests.distrain.models.attention.comparing import (
    EACH,
    SINKS,
    assert_close,
    heads,
    results,
    shown,
)
from tests.distrain.models.layouts import layout_of_lengths


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 24, 64, 200])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_whole_rows_have_the_bits_of_the_plain_causal_kernel(length, dtype, num_kv_heads):
    q, k, v = inputs = heads(3, length, dtype=dtype, num_kv_heads=num_kv_heads)
    plan = plan_attention(undivided(torch.zeros(3, length)))
    groups = 4 // num_kv_heads
    expected = results(
        lambda: F.scaled_dot_product_attention(
            q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), is_causal=True
        ),
        inputs,
    )
    for one, other in zip(results(lambda: attend(q, k, v, plan), inputs), expected, strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        assert torch.equal(attend(q, k, v, plan), expected[0])


@pytest.mark.parametrize("rule", EACH, ids=shown)
def test_queries_may_be_the_last_of_the_positions(rule):
    q, k, v = heads(3, 700, num_kv_heads=2)
    plan = plan_attention(undivided(torch.zeros(3, 700)))
    with torch.no_grad():
        whole = attend(q, k, v, plan, rule)
        for kept in (6, 600, 699):
            last = attend(q[:, :, kept:], k, v, plan, rule)
            torch.testing.assert_close(last, whole[:, :, kept:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", EACH, ids=shown)
def test_shapes_follow_without_values(rule):
    q, k, v = (x.to("meta") for x in heads(2, 30, num_kv_heads=2, sizes=(8, 5)))
    rule = replace(rule, sinks=None if rule.sinks is None else rule.sinks.to("meta"))
    plan = plan_attention(undivided(torch.zeros(2, 30, device="meta")))
    assert attend(q, k, v, plan, rule).shape == (2, 4, 30, 5)


def test_under_autocast_heads_are_cast_as_the_fused_kernel_casts_them():
    q, k, v = (x.detach().float() for x in heads(1, 30))
    plan = plan_attention(layout_of_lengths([(20, 10)]))
    with torch.autocast("cpu", torch.bfloat16):
        for rule in EACH:
            assert attend(q, k, v, plan, rule).dtype == torch.bfloat16
        assert attend(q.double(), k.double(), v.double(), plan).dtype == torch.float64


def test_rows_of_several_documents_have_no_queries_left_out():
    q, k, v = heads(1, 8)
    with pytest.raises(ValueError, match="as many queries as keys"):
        attend(q[:, :, 4:], k, v, plan_attention(layout_of_lengths([(3, 5)])))


@pytest.mark.parametrize("rule", EACH, ids=shown)
def test_a_document_longer_than_a_block_equals_the_whole_softmax(rule):
    length = BLOCK + 90
    q, k, v = inputs = heads(1, length, num_kv_heads=2)
    plan = plan_attention(layout_of_lengths([(length,)]))
    found = results(lambda: attend(q, k, v, plan, rule), inputs)
    assert_close(found, results(lambda: explicit_attention(q, k, v, rule), inputs), 1e-12)


def test_no_key_outside_of_block_and_window_is_touched():
    blocks = list(query_blocks(10, 14, 3, 4))
    assert blocks == [
        (slice(0, 4), slice(2, 8)),
        (slice(4, 8), slice(6, 12)),
        (slice(8, 10), slice(10, 14)),
    ]
    for rule in (AttentionRule(window=17), AttentionRule(window=17, softcap=5.0)):
        q, k, v = (x.detach() for x in heads(1, 900))
        plan = plan_attention(layout_of_lengths([(900,)]))
        expected = attend(q, k, v, plan, rule)
        k[:, :, 0] = v[:, :, 0] = torch.nan
        size = BLOCK if rule.softcap else block_size(17)
        found = attend(q, k, v, plan, rule)
        assert torch.equal(found[:, :, size:], expected[:, :, size:])
        assert found[:, :, 0].isnan().all()


class LargestTensor(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for x in output if isinstance(output, tuple | list) else (output,):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return output


@pytest.mark.parametrize("rule", EACH, ids=shown)
@pytest.mark.parametrize("lengths", [(700, 20, 204, 100), (1024,)])
def test_no_tensor_holds_all_pairs_of_positions(rule, lengths):
    q, k, v = inputs = [x[:, :1].detach().requires_grad_() for x in heads(1, 1024)]
    rule = replace(rule, sinks=None if rule.sinks is None else rule.sinks[:1])
    plan = plan_attention(layout_of_lengths([lengths]))
    with LargestTensor() as largest:
        results(lambda: attend(q, k, v, plan, rule), inputs)
    assert largest.numel < 1024**2
    with LargestTensor() as largest, torch.no_grad():
        explicit_attention(q, k, v, rule)
    assert largest.numel >= 1024**2


def test_dropout_is_drawn_from_the_seed_and_drawn_again_in_the_backward_pass():
    length = 2 * BLOCK
    rule = AttentionRule(dropout=0.3)
    q, k, v = inputs = heads(1, length)
    plan = plan_attention(undivided(torch.zeros(1, length)))

    def seeded(function, seed):
        torch.manual_seed(seed)
        return results(function, inputs)

    def by_hand():
        parts = [
            explicit_attention(q[:, :, start : start + BLOCK], k[:, :, :stop], v[:, :, :stop], rule)
            for start, stop in ((0, BLOCK), (BLOCK, length))
        ]
        return torch.cat(parts, dim=2)

    found = seeded(lambda: attend(q, k, v, plan, rule), 1)
    assert_close(found, seeded(by_hand, 1), 1e-12)
    assert not torch.equal(found[0], seeded(lambda: attend(q, k, v, plan, rule), 2)[0])
    # The share that is dropped, and what the rest is multiplied by, seen through values of one.
    ones = attend(q, k, torch.ones_like(v), plan, AttentionRule(dropout=0.3))
    assert ones[:, :, 64:].mean().item() == pytest.approx(1, abs=0.02)
    assert ones[:, :, 0].unique().tolist() == pytest.approx([0, 1 / 0.7])


def test_weights_of_blocks_are_not_kept_for_the_backward_pass():
    q, k, v = heads(1, 4 * BLOCK)
    rule = AttentionRule(softcap=2.0, sinks=torch.tensor(SINKS, dtype=torch.float64))
    kept = []

    def note(x):
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        softmax_attention(q, k, v, rule)
    assert max(kept) <= q.numel()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        explicit_attention(q, k, v, rule)
    assert max(kept) > 16 * q.numel()
