import os
import signal

import pytest

from distrain.fault.wishes import Wish, Wishes
from distrain.parallel.collectives import HostGroup
from distrain.runs.folder import RunFolder
from tests.ranks import run_ranks


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path)
    folder.control.mkdir()
    return folder


def test_nobody_wishes_anything(run):
    assert Wishes(run, 0).own() is Wish.NONE


def test_the_heaviest_file_is_granted(run):
    wishes = Wishes(run, 0)
    run.save.touch()
    run.yield_.touch()
    assert wishes.granted(wishes.own()) is Wish.YIELD
    run.stop.touch()
    assert wishes.granted(wishes.own()) is Wish.STOP


def test_a_save_is_granted_once(run):
    wishes = Wishes(run, 0)
    run.save.touch()
    assert wishes.granted(wishes.own()) is Wish.SAVE
    assert wishes.granted(wishes.own()) is Wish.NONE


def test_only_yield_and_stop_end_the_job():
    assert [wish for wish in Wish if wish.ends] == [Wish.YIELD, Wish.STOP]


def signal_rank_1(folder):
    host = HostGroup()
    wishes = Wishes(RunFolder(folder), host.rank)
    wishes.listen()
    if host.rank == 1:
        os.kill(os.getpid(), signal.SIGUSR1)
    assert (wishes.own() is Wish.YIELD) == (host.rank == 1)
    assert wishes.granted(*host.max(wishes.own())) is Wish.YIELD


def test_a_signal_to_one_rank_is_the_wish_of_all(tmp_path):
    run_ranks(tmp_path, 2, signal_rank_1, tmp_path)
