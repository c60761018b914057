"""A checkpoint's index is a pickle; reading one from a stranger must not run what it names."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

from distrain.checkpoint.commit import Commit, digest_file, read_commit, verify, write_commit
from distrain.checkpoint.dcp import load_entries, read_full, read_metadata
from distrain.checkpoint.index import IndexReader
from distrain.checkpoint.layout import COMMIT, METADATA
from distrain.errors import CheckpointError
from tests.distrain.checkpoint.states import (
    Recorder,
    assert_same_bits,
    cut,
    full_tensors,
    manager,
    names,
    zeroed,
)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self):
        return os.system, (self._command,)


@pytest.fixture
def stage(tmp_path):
    checkpoints = manager(tmp_path)
    for step in (100, 200):
        checkpoints.save_and_wait(step, cut(full_tensors(step), "rows", 0, 1), {"step": step})
    return tmp_path


def forge(folder: Path, content: object) -> None:
    """Put another index in place, and a commit record that vouches for it."""
    (folder / METADATA).write_bytes(pickle.dumps(content))
    commit = read_commit(folder)
    files = {**commit.files, METADATA: digest_file(folder / METADATA)}
    (folder / COMMIT).unlink()
    write_commit(folder, Commit(commit.step, commit.world_size, files))


def poisoned(folder: Path, trace: Path) -> Path:
    """Hide a payload in an index that is otherwise whole."""
    index = FileSystemReader(folder).read_metadata()
    index.planner_data = Payload(f"touch {trace}")
    forge(folder, index)
    return folder


def empty():
    return cut(zeroed(full_tensors(0)), "rows", 0, 1)


def test_the_payload_is_a_real_one(stage, tmp_path):
    folder = poisoned(stage / "checkpoints" / "step_000200", tmp_path / "trace")
    FileSystemReader(folder).read_metadata()
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "read",
    [
        read_metadata,
        read_full,
        lambda folder: load_entries(folder, empty(), None),
        lambda folder: IndexReader(folder).read_metadata(),
    ],
    ids=["our own index", "whole tensors", "what DCP loads", "the reader"],
)
def test_what_an_index_should_not_name_is_refused_and_not_run(stage, tmp_path, read):
    folder = poisoned(stage / "checkpoints" / "step_000200", tmp_path / "trace")
    with pytest.raises((CheckpointError, pickle.UnpicklingError), match=r"names posix\.system"):
        read(folder)
    assert not (tmp_path / "trace").exists()


def test_dcp_is_given_the_same_reader(stage, tmp_path, monkeypatch):
    """The second place: what our own look at the index lets through, DCP reads once more."""
    folder = stage / "checkpoints" / "step_000200"
    state = empty()
    whole = read_metadata(folder)
    poisoned(folder, tmp_path / "trace")
    monkeypatch.setattr("distrain.checkpoint.dcp.read_metadata", lambda folder: whole)
    with pytest.raises(CheckpointError, match="metadata read failed"):
        load_entries(folder, state, None)
    assert not (tmp_path / "trace").exists()


def test_a_run_puts_a_poisoned_checkpoint_aside_and_uses_the_one_before(stage, tmp_path):
    poisoned(stage / "checkpoints" / "step_000200", tmp_path / "trace")
    recorder = Recorder()
    state = empty()
    assert manager(stage, recorder).restore(state) == (100, {"step": 100})
    assert_same_bits(state, cut(full_tensors(100), "rows", 0, 1))
    assert names(stage / "quarantine") == ["step_000200"]
    assert "names posix.system, which no index needs" in recorder.events[0][1]["reason"]
    assert not (tmp_path / "trace").exists()


def test_names_are_compared_whole(stage):
    folder = stage / "checkpoints" / "step_000200"
    for name in ("torch.distributed.checkpoint.metadata\nos\n", "torch\nload\n", "pathlib\nPath\n"):
        (folder / METADATA).write_bytes(b"c" + name.encode() + b".")
        with pytest.raises(pickle.UnpicklingError, match="it names"):
            IndexReader(folder).read_metadata()


def test_an_index_leads_to_no_file_outside_its_folder(stage):
    folder = stage / "checkpoints" / "step_000200"
    shutil.copy(folder / "__0_0.distcp", stage / "other")
    index = FileSystemReader(folder).read_metadata()
    for chunk in index.storage_data.values():
        chunk.relative_path = "../../other"
    forge(folder, index)
    assert verify(folder) == f"{METADATA} cannot be read: it names the file '../../other'"


@pytest.mark.parametrize("content", [None, [], {"state_dict_metadata": {}}, "text"])
def test_a_pickle_that_is_no_index_is_damage(stage, content):
    folder = stage / "checkpoints" / "step_000200"
    forge(folder, content)
    assert "it holds a" in str(verify(folder))


def first_entry(index):
    return next(iter(index.state_dict_metadata.values()))


ABSURD = {
    "no entries": lambda index: setattr(index, "state_dict_metadata", None),
    "no files": lambda index: delattr(index, "storage_data"),
    "a name that is none": lambda index: index.state_dict_metadata.update({7: first_entry(index)}),
    "an entry of another kind": lambda index: index.state_dict_metadata.update(x=[1]),
    "no size": lambda index: setattr(first_entry(index), "size", None),
    "no chunks": lambda index: setattr(first_entry(index), "chunks", None),
    "chunks of other rank": lambda index: setattr(
        first_entry(index).chunks[0], "offsets", torch.Size([0] * 9)
    ),
}


@pytest.mark.parametrize("change", ABSURD.values(), ids=ABSURD)
def test_an_index_of_an_absurd_form_is_damage(stage, change):
    folder = stage / "checkpoints" / "step_000200"
    index = FileSystemReader(folder).read_metadata()
    forge(folder, index)
    assert verify(folder) is None
    change(index)
    forge(folder, index)
    assert str(verify(folder)).startswith(f"{METADATA} cannot be read: ")
