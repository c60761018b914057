import os
import random
import shutil
import signal
import subprocess
import sys

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.progress_page import stat_fields
from launcher.backends.page_folders import MEMORY
from launcher.proving import faults

RANK = """
import sys, time
from pathlib import Path
from distrain.runs.progress_page import PageWriter
page = PageWriter()
page.open(Path(sys.argv[1]), int(sys.argv[2]))
page.mark("data", 3)
print("here", flush=True)
time.sleep(60)
"""


@pytest.fixture
def ranks():
    """Two processes with pages, as a supervisor with this process's id would have started them."""
    folder = MEMORY / f"distrain-pretrain-0-{os.getpid()}-chaos"
    folder.mkdir()
    argv = [sys.executable, "-c", RANK, str(folder)]
    started = [subprocess.Popen([*argv, rank], stdout=subprocess.PIPE) for rank in "10"]
    outputs = [process.stdout for process in started if process.stdout is not None]
    for output in outputs:
        output.readline()
    yield started
    for process in started:
        process.kill()
        process.wait()
    for output in outputs:
        output.close()
    shutil.rmtree(folder)


def state_of(process):
    return stat_fields(process.pid)[0]


def test_ranks_are_found_by_their_pages_and_struck(ranks):
    pages = faults.ranks_of(os.getpid(), "pretrain")
    assert [(page.rank, page.pid) for page in pages] == [(0, ranks[1].pid), (1, ranks[0].pid)]
    assert faults.ranks_of(os.getpid(), "sft") == []
    with faults.all_stopped(pages) as all_there:
        assert all_there
        assert [state_of(process) for process in ranks] == ["T", "T"]
    assert faults.strike(pages[1])
    assert ranks[0].wait(10) == -signal.SIGKILL
    assert [page.rank for page in faults.ranks_of(os.getpid(), "pretrain")] == [0]
    assert not faults.strike(pages[1])
    with faults.all_stopped(pages) as all_there:
        assert not all_there
    assert faults.wait_until_gone(pages, 0.1) == [pages[0]]


def test_a_slow_rank_goes_on_afterwards(ranks):
    (page, _) = faults.ranks_of(os.getpid(), "pretrain")
    faults.slow_down(page, 0.2)
    assert state_of(ranks[1]) != "T"


def test_a_process_that_took_over_the_number_is_not_struck(ranks):
    (page, _) = faults.ranks_of(os.getpid(), "pretrain")
    assert not faults.signal_process(page.pid, page.started + 1, signal.SIGKILL)
    assert faults.children_of(os.getpid()) != []


def test_a_checkpoint_is_damaged_and_a_hard_link_of_it_is_not(tmp_path):
    folder = RunFolder(tmp_path / "run").stage("pretrain")
    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        faults.damage_newest(folder, random.Random(0))
    newest, before = folder.checkpoints / "step_000010", bytes(range(256)) * 40
    for path in (folder.checkpoints / "step_000005" / "a", newest / "a"):
        path.parent.mkdir(parents=True)
        path.write_bytes(before)
    os.link(newest / "a", tmp_path / "kept")
    said = faults.damage_newest(folder, random.Random(0))
    assert said.startswith("step_000010/a: ")
    assert (newest / "a").read_bytes() != before
    assert (tmp_path / "kept").read_bytes() == before
    assert [path.name for path in newest.iterdir()] == ["a"]


@pytest.mark.parametrize("damage", faults.DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("before", [bytes(range(256)) * 40, bytes(100), b"x"], ids=len)
def test_every_damage_leaves_other_content(damage, before):
    for seed in range(20):
        content = bytearray(before)
        damage(content, random.Random(seed))
        assert content != before
