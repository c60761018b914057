import pytest
import torch

from distrain.checkpoint.staging import Staging
from distrain.parallel.global_tensor import whole
from tests.distrain.checkpoint.states import assert_same_bits, cut, full_tensors


def pointers(state):
    return [box.tensor.data_ptr() for entry in state.values() for box in entry.boxes]


def test_copy_does_not_follow_the_state():
    state = cut(full_tensors(0), "ranges", 1, 3)
    staged = Staging().copy(state)
    for entry in state.values():
        for box in entry.boxes:
            box.tensor.zero_()
    written = cut(full_tensors(0), "ranges", 1, 3)
    assert_same_bits(
        {name: entry for name, entry in staged.items() if entry.writes},
        {name: entry for name, entry in written.items() if entry.writes},
    )


def test_buffers_are_kept_from_save_to_save():
    staging = Staging()
    state = cut(full_tensors(0), "rows", 0, 2)
    staging.prepare(state)
    first = pointers(staging.copy(state))
    assert pointers(staging.copy(cut(full_tensors(1), "rows", 0, 2))) == first


def test_buffers_follow_a_new_layout():
    staging = Staging()
    staging.copy(cut(full_tensors(0), "rows", 0, 2))
    other = cut(full_tensors(0), "ranges", 0, 2)
    assert_same_bits(staging.copy(other), other)


def test_what_another_rank_writes_is_not_copied():
    state = {"model/w": whole(torch.ones(4), writes=False)}
    staged = Staging().copy(state)
    assert staged["model/w"].boxes == ()
    assert not staged["model/w"].writes
    assert staged["model/w"].shape == (4,)


def test_a_buffer_holds_its_box_and_nothing_else():
    # DCP clones a view of larger memory before it writes it: a second copy of the state.
    staged = Staging().copy(cut(full_tensors(0), "ranges", 0, 2))
    for entry in staged.values():
        for box in entry.boxes:
            assert box.tensor.untyped_storage().nbytes() == box.tensor.nbytes


@pytest.mark.gpu
def test_a_copy_from_a_device_is_complete_on_return_and_pinned():
    tensor = torch.randn(64, 1024, 1024, device="cuda")
    expected = tensor.cpu()
    staged = Staging().copy({"model/w": whole(tensor, writes=True)})
    tensor.zero_()
    (box,) = staged["model/w"].boxes
    assert box.tensor.is_pinned()
    assert torch.equal(box.tensor, expected)
