import os
import signal
import subprocess
import sys
import time

import pytest

from distrain.runs.progress_page import PAGES, STACK_SIGNAL, STACKS, read_pages

HOLDS_THE_LOCK = """
import ctypes, threading, time
from distrain.fault import page
page.open_page()
page.be_judged()
import json.tool
page.begin_steps(0)
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
page.mark("data", 1)
while True:  # a signal ends the call
    ctypes.PyDLL(None).sleep(600)
"""


def wait_until(holds):
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def rank(tmp_path):
    env = os.environ | {PAGES: str(tmp_path), "RANK": "2"}
    process = subprocess.Popen([sys.executable, "-c", HOLDS_THE_LOCK], env=env)
    wait_until(lambda: [page.main.phase for page in read_pages(tmp_path)] == ["data"])
    yield process
    process.kill()
    process.wait()


def test_a_rank_that_holds_the_interpreter_lock_shows_all_its_stacks(rank, tmp_path):
    (page,) = read_pages(tmp_path)
    assert (page.rank, page.pid, page.judged, page.dumps) == (2, rank.pid, True, True)
    stacks = tmp_path / f"2{STACKS}"
    assert stacks.read_text() == ""

    def shows_both() -> bool:
        os.kill(rank.pid, STACK_SIGNAL)  # the first may come too early
        time.sleep(0.05)
        found = stacks.read_text()
        return 'File "<string>", line 11 in <module>' in found and "threading.py" in found

    wait_until(shows_both)
    assert rank.poll() is None


def test_without_the_variable_there_is_no_page_and_no_handler():
    code = (
        "from distrain.fault import page; page.open_page(); page.be_judged(); page.mark('data', 1)"
    )
    env = {name: value for name, value in os.environ.items() if name != PAGES}
    asks = f"import os; os.kill(os.getpid(), {int(STACK_SIGNAL)})"
    done = subprocess.run([sys.executable, "-c", f"{code}; {asks}"], env=env, check=False)
    assert done.returncode == -signal.SIGQUIT


def test_each_module_that_is_looked_for_is_a_mark(tmp_path):
    code = """
import time
from distrain.fault import page
from distrain.runs.progress_page import read_pages
from pathlib import Path
import os, sys
folder = Path(os.environ["DISTRAIN_PAGES"])
page.open_page()
first = read_pages(folder)[0].main.marked_ns
import wave
assert read_pages(folder)[0].main.marked_ns > first
page.begin_steps(0)
first = read_pages(folder)[0].main.marked_ns
import sndhdr
assert read_pages(folder)[0].main.marked_ns == first
"""
    env = os.environ | {PAGES: str(tmp_path), "PYTHONWARNINGS": "ignore"}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
