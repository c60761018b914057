"""Stacks that ranks write themselves, asked by a signal."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from distrain.runs.progress_page import STACK_SIGNAL, STACKS, started_ticks
from launcher.backends import incidents
from launcher.backends.incidents import collect_stacks
from launcher.backends.stacks import line_of_loop

RANK = f"""
import faulthandler, signal, sys
faulthandler.register({int(STACK_SIGNAL)}, file=open(sys.argv[1], "a"), all_threads=True)
def first():
    print("first", flush=True)
    sys.stdin.readline()
def second():
    print("second", flush=True)
    sys.stdin.readline()
first()
second()
"""


def test_stacks_that_are_asked_for_again_are_those_of_now(tmp_path, monkeypatch):
    monkeypatch.setattr(incidents, "find_py_spy", lambda: None)
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, str(tmp_path / "rank.py"), str(tmp_path / f"0{STACKS}")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as rank:
        assert rank.stdin is not None
        assert rank.stdout is not None
        page: Any = SimpleNamespace(
            rank=0, pid=rank.pid, started=started_ticks(rank.pid), dumps=True
        )
        for function in ("first", "second"):
            assert rank.stdout.readline().strip() == function
            line = line_of_loop(collect_stacks([page], tmp_path)[0], "data")
            assert line.endswith(f" in {function}")
            rank.stdin.write("\n")
            rank.stdin.flush()
