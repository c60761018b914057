import os
import subprocess
import sys

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.owned_folder import OWNER
from launcher.backends import page_folders
from launcher.backends.incidents import WatchedStage
from launcher.backends.page_folders import PageFolder

MAKES_ONE = """
import sys, time
from pathlib import Path
from distrain.runs.folder import RunFolder
from launcher.backends import page_folders
from launcher.backends.incidents import WatchedStage
page_folders.MEMORY = Path(sys.argv[1])
made = page_folders.PageFolder(WatchedStage(RunFolder(Path("run")), "train", 0, 1))
print(made.path.name, flush=True)
time.sleep(600)
"""


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(page_folders, "MEMORY", tmp_path)
    return tmp_path


def make(memory):
    return PageFolder(WatchedStage(RunFolder(memory / "run"), "train", 0, 1))


def test_what_a_killed_supervisor_left_behind_is_removed_and_what_others_use_stays(memory):
    def begin():
        command = [sys.executable, "-c", MAKES_ONE, str(memory)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        process.stdout.close()
        return process, memory / name

    (dead, left), (alive, used) = begin(), begin()
    foreign = memory / "distrain-of-something-else"
    foreign.mkdir()
    try:
        assert left.is_dir()
        dead.kill()
        dead.wait()
        own = make(memory)
        assert not left.exists()
        assert all(path.is_dir() for path in (used, foreign, own.path))
    finally:
        alive.kill()
        alive.wait()
    again = make(memory)
    assert not used.exists()
    assert own.path.is_dir(), "of this process, which lives"
    own.remove()
    again.remove()
    again.remove()
    assert [path.name for path in memory.iterdir()] == [foreign.name]


def test_children_do_not_keep_the_folder(memory):
    folder = make(memory)
    inherits = subprocess.run(
        [sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))"],
        close_fds=False,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not os.get_inheritable(folder._owner)
    assert str(folder._owner) not in eval(inherits.stdout)
    assert (folder.path / OWNER).exists()
    folder.remove()
