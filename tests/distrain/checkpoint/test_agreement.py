import errno

import pytest

from distrain.checkpoint.agreement import FailedError, agree, on_first
from distrain.errors import CheckpointError
from distrain.parallel.collectives import HostGroup
from tests.ranks import run_ranks


class UnpicklableError(Exception):
    def __init__(self, one, two):
        super().__init__(lambda: one + two)


def fail_on_rank_one() -> None:
    host = HostGroup()

    def raising(error):
        def act():
            if host.rank == 1:
                raise error
            return host.rank

        return act

    assert agree(host, lambda: host.rank) == [0, 1]
    assert on_first(host, lambda: f"of {host.rank}") == "of 0"
    with pytest.raises(FailedError, match="No space left on device: file") as caught:
        agree(host, raising(OSError(errno.ENOSPC, "No space left on device", "file")))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(CheckpointError, match=r"a: found b; expected c\. D\."):
        agree(host, raising(CheckpointError("a", "b", "c", "D.")))
    with pytest.raises(FailedError, match="UnpicklableError"):
        agree(host, raising(UnpicklableError(1, 2)))
    with pytest.raises(FailedError, match="ZeroDivisionError"):
        on_first(host, lambda: 1 // 0)


def test_what_one_rank_meets_all_ranks_raise(tmp_path):
    run_ranks(tmp_path, 2, fail_on_rank_one)


def test_a_system_error_is_found_behind_others():
    def act():
        raise RuntimeError("unexpected pos") from OSError(errno.EDQUOT, "Disk quota exceeded")

    with pytest.raises(FailedError, match="Disk quota exceeded") as caught:
        agree(HostGroup(), act)
    assert caught.value.errno == errno.EDQUOT
