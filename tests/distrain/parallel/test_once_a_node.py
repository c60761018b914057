"""Ranks of a node take what the first of them has made."""

import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from distrain.errors import DataError
from distrain.parallel import once_a_node as module
from distrain.parallel.collectives import HostGroup
from distrain.parallel.once_a_node import once_a_node
from distrain.runs.owned_folder import OwnedFolder
from tests.ranks import run_ranks

RANKS, PER_NODE = 4, 2


def made(folder, rank):
    """Say that this rank has made it: arrays of several sizes, one of them by two names."""
    (folder / f"made-by-{rank}").touch()
    array = np.arange(1000, dtype=np.int32)
    return {
        "ids": array,
        "again": array,
        "none": np.empty(0, np.int64),
        "odd": np.ones(3, np.bool_),
    }


def refused(folder, rank):
    (folder / f"made-by-{rank}").touch()
    raise DataError("there", f"nothing, says rank {rank}", "something", "Put it there.")


def as_two_nodes(rank, folder):
    os.environ["LOCAL_RANK"] = str(rank % PER_NODE)
    os.environ["LOCAL_WORLD_SIZE"] = str(PER_NODE)
    tempfile.tempdir = str(folder)


def take(folder):
    host = HostGroup()
    as_two_nodes(host.rank, folder)
    found = once_a_node(host, partial(made, folder, host.rank))
    assert found["ids"].tolist() == list(range(1000))
    assert found["again"] is found["ids"]
    assert (len(found["none"]), found["odd"].tolist()) == (0, [True] * 3)
    found["ids"][0] = host.rank  # it is its own: nobody else sees it
    host.barrier()
    assert found["ids"][0] == host.rank
    with pytest.raises(DataError, match=f"says rank {host.rank // PER_NODE * PER_NODE}"):
        once_a_node(host, partial(refused, folder, host.rank))


def take_from_a_full_disk(folder):
    host = HostGroup()
    as_two_nodes(host.rank, folder)

    def full(*_):
        raise OSError(28, "no space")

    module._write = full
    assert len(once_a_node(host, partial(made, folder, host.rank))["ids"]) == 1000


def test_one_rank_of_each_node_makes_it_and_nothing_is_left(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    killed = OwnedFolder(work, module.PREFIX)
    (killed.path / module.ARRAYS).write_bytes(b"half of them")
    os.close(killed._owner)  # as the system does once a process is gone
    run_ranks(tmp_path, RANKS, take, work)
    assert sorted(path.name for path in work.iterdir()) == ["made-by-0", "made-by-2"]


def test_where_nothing_can_be_written_each_makes_its_own(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    run_ranks(tmp_path, RANKS, take_from_a_full_disk, work)
    assert len(list(Path(work).iterdir())) == RANKS
