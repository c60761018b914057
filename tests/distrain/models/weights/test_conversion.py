import weakref

import pytest
import torch

from distrain.models.weights.conversion import ConvertedWeights, Fusion, Rename
from distrain.models.weights.source import TensorWeights


class Counting(TensorWeights):
    """Notes what is read."""

    def __init__(self, tensors):
        super().__init__(tensors)
        self.asked = []

    def read(self, name, place=()):
        self.asked.append((name, place))
        return super().read(name, place)


def stacked(parts):
    return {"experts": torch.stack([parts.pop(name) for name in ("e0", "e1")])}


def test_parts_of_renamed_and_fused_tensors_are_read():
    tensors = {"e0": torch.zeros(2, 3), "e1": torch.ones(2, 3), "old": torch.arange(8.0)}
    source = Counting(tensors)
    weights = ConvertedWeights(source, [Rename("old", "new"), Fusion(("e0", "e1"), stacked)])
    assert source.asked == []
    assert {name: form.shape for name, form in weights.forms.items()} == {
        "new": (8,),
        "experts": (2, 2, 3),
    }
    assert weights.read("new", (slice(2, 4),)).equal(torch.tensor([2.0, 3.0]))
    assert source.asked == [("old", (slice(2, 4),))]  # no more than the part
    assert weights.read("experts", (slice(1, 2),)).equal(torch.ones(1, 2, 3))
    assert weights.read("experts", (slice(0, 1),)).equal(torch.zeros(1, 2, 3))
    assert [name for name, _ in source.asked[1:]] == ["e0", "e1"]  # made once


def test_what_was_made_is_let_go_when_another_tensor_is_read():
    tensors = {"e0": torch.zeros(2, 3), "e1": torch.ones(2, 3), "old": torch.arange(8.0)}
    made = []

    def noted(parts):
        tensor = stacked(parts)
        made.append(weakref.ref(tensor["experts"]))
        return tensor

    weights = ConvertedWeights(
        TensorWeights(tensors), [Rename("old", "new"), Fusion(("e0", "e1"), noted)]
    )
    weights.read("experts")
    assert made[-1]() is not None
    weights.read("new")
    assert made[-1]() is None


def test_what_does_not_fit_together_is_said_before_a_value_is_read():
    unequal = Counting({"e0": torch.zeros(2, 3), "e1": torch.zeros(2, 4)})
    with pytest.raises(ValueError, match=r"e0 and 1 more of shapes \[\(2, 3\), \(2, 4\)\]"):
        ConvertedWeights(unequal, [Fusion(("e0", "e1"), stacked)])
    twice = [Rename("e0", "experts"), Rename("e1", "experts")]
    with pytest.raises(ValueError, match="experts is there twice, under e1 too"):
        ConvertedWeights(unequal, twice)
    assert unequal.asked == []
