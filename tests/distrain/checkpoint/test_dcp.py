"""Saved in any cut, loaded in any other, by us or by any torch tool."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from distrain.checkpoint.agreement import FailedError
from distrain.checkpoint.dcp import load_entries, read_full, save_entries
from distrain.errors import CheckpointError
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import GlobalTensor, whole
from tests.distrain.checkpoint.states import (
    SHAPES,
    assert_same_bits,
    bits,
    cut,
    full_tensors,
    zeroed,
)
from tests.ranks import run_ranks

SAVED_AS = ("rows", "columns", "ranges", "ranges:1", "replica")
LOADED_AS = (*SAVED_AS, "ranges:2", "ranges:3")


def save_every_cut(folder: Path) -> None:
    host = HostGroup()
    for how in SAVED_AS:
        state = cut(full_tensors(0), how, host.rank, host.world_size)
        save_entries(folder / how, state, host)


def load_every_cut(folder: Path) -> None:
    host = HostGroup()
    for saved_as in SAVED_AS:
        for how in LOADED_AS:
            state = cut(zeroed(full_tensors(0)), how, host.rank, host.world_size)
            load_entries(folder / saved_as, state, host.process_group)
            expected = cut(full_tensors(0), how, host.rank, host.world_size)
            assert_same_bits(state, expected)


@pytest.fixture(scope="module")
def saved_by_four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    run_ranks(folder, 4, save_every_cut, folder)
    return folder


@pytest.mark.parametrize("world_size", [2, 3])
def test_four_ranks_save_and_fewer_load_the_same_bits(saved_by_four, world_size, tmp_path):
    run_ranks(tmp_path, world_size, load_every_cut, saved_by_four)


def test_one_process_without_a_group_loads_the_same_bits(saved_by_four):
    load_every_cut(saved_by_four)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 9), st.sampled_from(SAVED_AS))
def test_every_part_of_any_cut_is_loaded(saved_by_four, seed, world_size, saved_as):
    how = f"ranges:{seed}"
    for rank in range(world_size):
        state = cut(zeroed(full_tensors(0)), how, rank, world_size)
        load_entries(saved_by_four / saved_as, state, None)
        assert_same_bits(state, cut(full_tensors(0), how, rank, world_size))


@pytest.mark.parametrize("saved_as", SAVED_AS)
def test_plain_torch_tools_read_it(saved_by_four, saved_as, tmp_path):
    expected = full_tensors(0)
    plain = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    load(plain, checkpoint_id=saved_by_four / saved_as)
    dcp_to_torch_save(saved_by_four / saved_as, tmp_path / "all.pt")
    converted = torch.load(tmp_path / "all.pt", weights_only=True)
    assert converted.keys() == expected.keys()
    for name in SHAPES:
        assert bits(plain[name]) == bits(expected[name])
        assert bits(converted[name]) == bits(expected[name])


def test_a_replica_is_stored_once_and_loaded_everywhere(saved_by_four):
    sizes = [(saved_by_four / "replica" / f"__{rank}_0.distcp").stat().st_size for rank in range(4)]
    assert sizes[0] > 0
    assert sizes[1:] == [0, 0, 0]


def test_read_full_gives_the_whole_weights_under_their_names(saved_by_four):
    weights = read_full(saved_by_four / "ranges:1")
    expected = full_tensors(0)
    assert set(weights) == {
        name.removeprefix("model/") for name in expected if name.startswith("model/")
    }
    for name, tensor in weights.items():
        assert bits(tensor) == bits(expected[f"model/{name}"])


def test_read_full_says_what_there_is_when_it_finds_nothing(saved_by_four):
    with pytest.raises(CheckpointError, match=r"named lora/\.\.\.; expected one of buffer/"):
        read_full(saved_by_four / "rows", prefix="lora/")


def test_entries_of_another_model_are_named_and_nothing_is_loaded(saved_by_four):
    state = cut(zeroed(full_tensors(0)), "rows", 0, 1)
    del state["exp_avg/embed.weight"]
    state["model/new"] = whole(torch.zeros(3), writes=True)
    state["model/layers.0.odd"] = whole(torch.zeros(8), writes=True)
    state["model/layers.0.tiny"] = whole(torch.zeros(2, dtype=torch.float64), writes=True)
    with pytest.raises(CheckpointError) as caught:
        load_entries(saved_by_four / "rows", state, None)
    message = str(caught.value)
    assert "lacks model/new" in message
    assert "unexpected exp_avg/embed.weight" in message
    assert "model/layers.0.odd of shape [7] float32 instead of shape [8] float32" in message
    assert "model/layers.0.tiny of shape [2] float32 instead of shape [2] float64" in message
    assert not any(box.tensor.any() for entry in state.values() for box in entry.boxes)


def load_with_one_wrong_rank(folder: Path) -> None:
    host = HostGroup()
    state = cut(zeroed(full_tensors(0)), "rows", host.rank, host.world_size)
    if host.rank == 1:
        state["model/new"] = whole(torch.zeros(3), writes=True)
    with pytest.raises(CheckpointError, match="lacks model/new" if host.rank else "another rank"):
        load_entries(folder / "rows", state, host.process_group)


def test_a_mismatch_on_one_rank_stops_all_of_them(saved_by_four, tmp_path):
    run_ranks(tmp_path, 2, load_with_one_wrong_rank, saved_by_four)


def test_part_of_a_checkpoint_is_loaded_on_request(saved_by_four):
    tensors = {name: tensor for name, tensor in full_tensors(0).items() if "model/" in name}
    state = cut(zeroed(tensors), "rows", 0, 1)
    load_entries(saved_by_four / "rows", state, None, partial=True)
    assert_same_bits(state, cut(tensors, "rows", 0, 1))


def test_a_state_with_a_hole_is_not_saved(tmp_path):
    state = cut(full_tensors(0), "rows", 0, 2)
    with pytest.raises(FailedError, match="all ranks together write 42 of 78 values") as caught:
        save_entries(tmp_path, state, HostGroup())
    assert "model/embed.weight" in str(caught.value)


def test_a_hole_in_a_checkpoint_is_found_at_load(tmp_path, saved_by_four):
    shutil.copytree(saved_by_four / "rows", tmp_path / "holed")
    reader = FileSystemReader(tmp_path / "holed")
    metadata = reader.read_metadata()
    entry = metadata.state_dict_metadata["model/embed.weight"]
    assert isinstance(entry, TensorStorageMetadata)
    entry.chunks.pop()
    (tmp_path / "holed" / ".metadata").write_bytes(pickle.dumps(metadata))
    state = cut(zeroed(full_tensors(0)), "rows", 0, 1)
    with pytest.raises(CheckpointError, match=r"only a part of model/embed\.weight"):
        load_entries(tmp_path / "holed", state, None)


def test_an_unreadable_index_is_one_clear_error(tmp_path):
    (tmp_path / ".metadata").write_bytes(b"not a pickle")
    state: dict[str, GlobalTensor] = {}
    with pytest.raises(CheckpointError, match="expected the entries of this model"):
        load_entries(tmp_path, state, None)
