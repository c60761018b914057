"""A backend is one new file and one line: a test-only one, and what commands may know of all."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distrain.errors import ExitCode
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import read_state
from launcher.backends.backend import BACKENDS
from tests.launcher.small_run import ROOT, fake_python, write_recipe

SPAWNED = Path(__file__).with_name("spawned.py")


class Spawned:
    """`distrain` with the test-only backend."""

    def __init__(self, folder: Path, **behaviours: list[str]) -> None:
        self.folder = folder
        self.recipe = write_recipe(folder)
        self.run = RunFolder(folder / "runs" / "small")
        self.env = os.environ | {
            "DAEMONS_PYTHON": fake_python(folder, **behaviours),
            "DISTRAIN_RUNS_DIR": str(folder / "runs"),
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [sys.executable, str(SPAWNED), *words]
        return subprocess.Popen(command, env=self.env, stdout=pipe, stderr=pipe, text=True)

    def do(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def status(self, stage: str) -> dict[str, str]:
        _, out, _ = self.do("status", "small", "--json")
        rows = json.loads(out)["result"]["stages"]
        return next(row for row in rows if row["stage"] == stage)


def test_a_backend_of_one_file_and_one_line_runs_restarts_and_stops(tmp_path):
    spawned = Spawned(tmp_path, pretrain=["crash", "wait", "done"], export=["crash"])
    recipe = (str(spawned.recipe), "launch.backend=spawned")
    running = spawned.start("run", *recipe)
    pretrain = spawned.run.stage("pretrain")
    deadline = time.monotonic() + 30
    while (state := read_state(pretrain)) is None or state["attempt"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert spawned.status("pretrain")["note"].startswith("daemon ")
    code, out, _ = spawned.do("stop", "small")
    assert (code, "Ended after" in out) == (0, True)
    assert (spawned.run.root / "cancelled").read_text() == "prepare pretrain export"
    _, err = running.communicate(timeout=30)
    assert running.returncode == ExitCode.STOPPED
    assert "note: daemons run here" in err
    assert "attempt 1 failed, daemon ended with 1" in err
    assert "the reason is here" in err

    code, _, err = spawned.do("run", *recipe)
    assert code == ExitCode.TRAINING
    assert "stage export: found daemon ended with 1 in attempt 2, 2 attempts in a row" in err
    assert spawned.status("pretrain")["state"] == "done"
    assert spawned.status("export")["state"] == "failed"
    events = [e["event"] for e in read_records(spawned.run.events) if e["stage"] == "pretrain"]
    assert events.count("restarted") == 1
    assert events.count("started") == 3


def test_what_it_would_start_is_shown_and_a_queue_is_not_asked_of_it(tmp_path):
    spawned = Spawned(tmp_path)
    recipe = (str(spawned.recipe), "launch.backend=spawned")
    assert "daemon of pretrain" in spawned.do("plan", *recipe, "--script")[1]
    code, _, err = spawned.do("submit", *recipe)
    assert code == ExitCode.RECIPE
    assert "found spawned; expected slurm for this command. Use `distrain run`" in err


def files_that_name(names: set[str], text: str) -> list[str]:
    """Return the strings of a source that are the name of a backend, and imports of their files."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and node.value in names:
            found.append(str(node.value))
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[:2] == ["launcher", "backends"] and parts[2:3] and parts[2] in names:
                found.append(node.module)
    return found


OUTSIDE = [p for p in (ROOT / "launcher").rglob("*.py") if "backends" not in p.parts]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_backend_is_named_outside_their_room(path):
    assert files_that_name(set(BACKENDS), path.read_text()) == []


def test_a_planted_name_of_a_backend_is_found():
    names = set(BACKENDS)
    assert files_that_name(names, 'if launch.backend == "slurm":\n    pass') == ["slurm"]
    assert files_that_name(names, "from launcher.backends.torchrun import x") != []
