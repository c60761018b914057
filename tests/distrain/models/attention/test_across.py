"""Rows that are cut over ranks, without ranks: the parts of all of them make up the whole."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from distrain.models.attention import (
    PLAIN,
    AttentionRule,
    Columns,
    attend,
    flex,
    in_columns,
    plan_attention,
)
from distrain.models.attention.across import ACROSS, QUERIES
from distrain.parallel.context.stripes import Stripes
from tests.distrain.models.attention.comparing import EACH, assert_close, heads, results, shown
from tests.distrain.models.layouts import document_mask, layout_of_lengths

CROSSING = ((5, 1, 90), (96,), (33, 20, 40, 3))
"""Documents that begin and end within stripes, and cross many of them."""


@dataclass
class Held:
    """Has the keys and values of all columns already."""

    k: Tensor
    v: Tensor
    num_parts: int = 1

    def parts(self, num_kv_heads):
        return min(self.num_parts, num_kv_heads)

    def start(self, k, v):
        first = self.taken = getattr(self, "taken", 0)
        self.taken = (first + k.shape[1]) % self.k.shape[1]
        return lambda: tuple(x[:, first : first + k.shape[1]] for x in (self.k, self.v))


def columns_of(stripes, row_length, held):
    numbers = stripes.numbers(row_length)
    return Columns(numbers, numbers, row_length, held)


def attend_whole(documents, inputs, rule=PLAIN):
    q, k, v = inputs
    return attend(q, k, v, plan_attention(documents), rule)


def attend_in_parts(documents, inputs, rule, num_ranks, *, num_parts=1, believed=None):
    """Attend as each of so many ranks would, and put what comes out together.

    ``believed``: of which place all ranks take their queries to be.
    """
    q, k, v = inputs
    parts = []
    for place in range(num_ranks):
        numbers = Stripes(num_ranks, place).numbers(q.shape[2])
        stripes = Stripes(num_ranks, place if believed is None else believed)
        columns = columns_of(stripes, q.shape[2], Held(k, v, num_parts))
        own_q, own_k, own_v = (x.index_select(2, numbers) for x in (q, k, v))
        parts.append(
            attend(own_q, own_k, own_v, plan_attention(in_columns(documents, columns)), rule)
        )
    return Stripes(num_ranks, 0).joined(torch.stack(parts))


@pytest.mark.parametrize(
    ("rule", "num_ranks"),
    [(AttentionRule(), 2), *((rule, 4) for rule in EACH)],
    ids=lambda value: value if isinstance(value, int) else shown(value),
)
def test_the_parts_of_all_ranks_are_the_whole(rule, num_ranks):
    documents = layout_of_lengths(CROSSING)
    inputs = heads(3, 96, num_kv_heads=2)
    whole = results(lambda: attend_whole(documents, inputs, rule), inputs)
    for num_parts in (1, 2):
        found = results(
            lambda parts=num_parts: attend_in_parts(
                documents, inputs, rule, num_ranks, num_parts=parts
            ),
            inputs,
        )
        assert_close(found, whole, 1e-12)


def test_queries_out_of_place_are_not_the_whole():
    documents = layout_of_lengths(CROSSING)
    inputs = heads(3, 96)
    whole = attend_whole(documents, inputs)
    moved = attend_in_parts(documents, inputs, AttentionRule(), 2, believed=0)
    assert (moved - whole).abs().max() > 0.1


@pytest.mark.parametrize("rule", [EACH[0], EACH[-1]], ids=shown)
def test_rows_of_several_blocks_and_value_heads_of_their_own_size(rule):
    """And rows that are one document, for which another kernel is chosen without the cut."""
    for lengths in ((1200,), (700, 20, 480)):
        documents = layout_of_lengths((lengths,))
        inputs = heads(1, 1200, sizes=(8, 5))
        found = results(lambda d=documents, i=inputs: attend_in_parts(d, i, rule, 2), inputs)
        whole = results(lambda d=documents, i=inputs: attend_whole(d, i, rule), inputs)
        assert_close(found, whole, 1e-12)
        assert sum(lengths) // 2 > 2 * QUERIES


def test_rows_that_do_not_divide_end_in_documents_of_padding():
    columns = columns_of(Stripes(2, 1), 32, None)
    documents = layout_of_lengths(((5, 15), (20,)))
    layout = in_columns(documents, columns)
    assert layout.lengths == (5, 15, 12, 20, 12)
    assert layout.cu_seqlens.tolist() == [0, 5, 20, 32, 52, 64]
    assert layout.position_ids.tolist() == [
        [3, 4, 5, 6, 7, 8, 9, 10, *range(4, 12)],
        [8, 9, 10, 11, 12, 13, 14, 15, *range(4, 12)],
    ]
    assert in_columns(layout_of_lengths(((5, 27), (32,))), columns).lengths == (5, 27, 32)


def test_dropout_and_kernels_for_the_last_queries_only_are_not_for_cut_rows():
    q, k, v = heads(1, 32)
    layout = in_columns(layout_of_lengths(((32,),)), columns_of(Stripes(2, 0), 32, Held(k, v)))
    q, k, v = (x[:, :, :16] for x in (q, k, v))
    with pytest.raises(ValueError, match="drops no weights"):
        attend(q, k, v, plan_attention(layout), AttentionRule(dropout=0.1))
    assert "varlen" not in ACROSS


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("rule", [EACH[0], EACH[-1]], ids=shown)
def test_flex_attention_is_told_which_columns_are_here(rule, monkeypatch):
    """Its uncompiled form has a forward pass on the CPU."""
    monkeypatch.setattr(flex, "fused", lambda: flex_attention)
    documents = layout_of_lengths(((300, 5, 95 + 112), (512,)))
    q, k, v = (x.detach() for x in heads(2, 512, num_kv_heads=2, dtype=torch.float32))
    whole = attend(q, k, v, plan_attention(documents), rule)
    for place in range(2):
        columns = columns_of(Stripes(2, place), 512, Held(k, v))
        plan = plan_attention(in_columns(documents, columns))
        own = q.index_select(2, columns.numbers)
        sinks = None if rule.sinks is None else rule.sinks.float()
        found = ACROSS["flex"](own, k, v, plan, replace(rule, sinks=sinks))
        torch.testing.assert_close(found, whole.index_select(2, columns.numbers), rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [None, 1, 40, 300])
@pytest.mark.parametrize("place", [0, 3])
def test_blocks_of_the_mask_over_cut_rows_are_those_that_a_whole_mask_gives(window, place):
    documents = layout_of_lengths(((700, 5, 319), (1024,), (128, 512, 384)))
    seen = document_mask(documents)[:, 0, 0]
    columns = columns_of(Stripes(4, place), 1024, None)
    numbers = columns.numbers

    def mask_mod(row, head, query, key):
        far = torch.tensor(False) if window is None else key <= numbers[query] - window
        return seen[row, numbers[query], key] & (key <= numbers[query]) & ~far

    expected = create_block_mask(mask_mod, len(seen), None, 256, 1024, device="cpu")
    found = plan_attention(in_columns(documents, columns)).block_mask(window)
    # Ranges know no gap: a block within one may be looked into in vain, and is never missed.
    assert (found.to_dense() >= expected.to_dense()).all()
    assert torch.equal(filled(found), filled(expected))
    assert filled(found).sum() > 0 or window is not None


def filled(mask):
    """Say how many blocks of keys are seen whole by each block of queries."""
    assert mask.full_kv_num_blocks is not None
    return mask.full_kv_num_blocks
