"""Tables with rows for new tokens: equal bits in whatever parts they are read."""

from itertools import combinations, pairwise

import pytest
import torch

from distrain.models.weights import grown
from distrain.models.weights.grown import GrownWeights, Growth
from distrain.models.weights.source import CastWeights, TensorWeights, as_float32, read_all

ROWS = 7
"""Of the tables; some tests take the last ones for spare."""
TABLES = {"embed": 0, "head": 0, "bias": 0, "by column": 1}


def tensors(dtype=torch.float32):
    random = torch.Generator().manual_seed(5)

    def made(*shape):
        return torch.randn(*shape, generator=random).to(dtype)

    return {
        "embed": made(ROWS, 3),
        "head": made(ROWS, 3),
        "bias": made(ROWS),
        "by column": made(4, ROWS),
        "norm": made(3),
    }


def along(tensor, axis, first, last):
    return tensor.narrow(axis, first, last - first)


@pytest.mark.parametrize(("known", "stop"), [(7, 9), (5, 6), (5, 7), (5, 10), (7, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_new_rows_are_the_mean_of_those_with_a_token_and_all_others_stay(known, stop, dtype):
    before = tensors(dtype)
    found = read_all(GrownWeights(TensorWeights(before), TABLES, Growth(known, stop)))
    assert torch.equal(found.pop("norm"), before["norm"])
    for name, table in found.items():
        axis = TABLES[name]
        assert table.dtype == dtype
        assert table.shape[axis] == max(ROWS, stop)
        assert torch.equal(along(table, axis, 0, known), along(before[name], axis, 0, known))
        mean = along(before[name], axis, 0, known).double().mean(axis, keepdim=True)
        # Rounded once: half a unit of the last place, and what the sum's order leaves in float64.
        unit = torch.finfo(dtype).eps
        for row in range(known, stop):
            new = along(table, axis, row, row + 1).double()
            torch.testing.assert_close(new, mean, rtol=unit, atol=1e-12)
        spare = along(table, axis, stop, table.shape[axis]) if stop < ROWS else None
        if spare is not None:
            assert torch.equal(spare, along(before[name], axis, stop, ROWS))
    # The control: a mean over spare rows, too, is another one.
    if known < ROWS:
        whole = before["embed"].double().mean(0)
        assert not torch.allclose(found["embed"][known].double(), whole, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("known", "stop"), [(7, 9), (5, 6), (5, 10)])
def test_any_box_has_the_bits_of_the_whole(known, stop, monkeypatch):
    # Few rows at a time: the mean is put together of several parts, as of a large table.
    monkeypatch.setattr(grown, "READ_ELEMENTS", 2)
    source = TensorWeights(tensors())
    whole = read_all(GrownWeights(source, TABLES, Growth(known, stop)))
    for name, axis in TABLES.items():
        shape = whole[name].shape
        for first, last in combinations(range(shape[axis] + 1), 2):
            # Each is read by a rank of its own, which knows no mean yet.
            rank = GrownWeights(source, TABLES, Growth(known, stop))
            place = [slice(None)] * len(shape)
            place[axis] = slice(first, last)
            assert torch.equal(rank.read(name, tuple(place)), along(whole[name], axis, first, last))
    columns = GrownWeights(source, TABLES, Growth(known, stop))
    parts = [columns.read("embed", (slice(None), slice(a, b))) for a, b in pairwise((0, 1, 3))]
    assert torch.equal(torch.cat(parts, 1), whole["embed"])


def test_a_mean_of_a_part_would_be_another_one():
    """The control: what a rank reads of the table does not do for its mean."""
    table = tensors()["embed"]
    whole = GrownWeights(TensorWeights({"embed": table}), {"embed": 0}, Growth(ROWS, 8))
    part = GrownWeights(TensorWeights({"embed": table[3:]}), {"embed": 0}, Growth(ROWS - 3, 8 - 3))
    assert not torch.equal(whole.read("embed")[-1], part.read("embed")[-1])


def test_one_growth_stands_upon_another_and_below_a_cast():
    before = TensorWeights(tensors(torch.float64))
    once = GrownWeights(before, TABLES, Growth(7, 9))
    twice = read_all(CastWeights(GrownWeights(once, TABLES, Growth(9, 10)), as_float32))
    assert twice["embed"].shape == (10, 3)
    torch.testing.assert_close(twice["embed"][9], twice["embed"][8], rtol=1e-6, atol=1e-7)
    assert torch.equal(twice["embed"][7], twice["embed"][8])


def test_who_holds_no_new_row_reads_its_own_rows_only():
    class Counting(TensorWeights):
        reads = 0

        def read(self, name, place=()):
            self.reads += 1
            return super().read(name, place)

    source = Counting(tensors())
    GrownWeights(source, TABLES, Growth(7, 9)).read("embed", (slice(0, 3),))
    assert source.reads == 1
