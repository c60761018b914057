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
    assert Wishes(run, HostGroup()).agreed() is Wish.NONE


def test_the_heaviest_file_is_granted(run):
    wishes = Wishes(run, HostGroup())
    run.save.touch()
    run.yield_.touch()
    assert wishes.agreed() is Wish.YIELD
    run.stop.touch()
    assert wishes.agreed() is Wish.STOP


def test_a_save_is_granted_once(run):
    wishes = Wishes(run, HostGroup())
    run.save.touch()
    assert wishes.agreed() is Wish.SAVE
    assert wishes.agreed() is Wish.NONE


def test_only_yield_and_stop_end_the_job():
    assert [wish for wish in Wish if wish.ends] == [Wish.YIELD, Wish.STOP]


def signal_rank_1(folder):
    wishes = Wishes(RunFolder(folder), HostGroup())
    wishes.listen()
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGUSR1)
    assert wishes.agreed() is Wish.YIELD


def test_a_signal_to_one_rank_is_the_wish_of_all(tmp_path):
    run_ranks(tmp_path, 2, signal_rank_1, tmp_path)
