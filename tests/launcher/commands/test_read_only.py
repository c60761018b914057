"""A colleague looks at a finished run: nothing in its folder is written, made or locked."""

import json
import os
import subprocess
import sys

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.lock import hold
from distrain.runs.records import write_json
from launcher.commands import cli
from tests.launcher.commands.test_json import EVALUATED
from tests.launcher.small_run import ROOT, new_run

GUARDED = """
import errno, os, sys
root = os.path.realpath(sys.argv[1])
WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.symlink"}
def guard(event, args):
    if event == "open":
        path, _, flags = args
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        path, writes = args[0] if args else None, event in WRITES
    if writes and isinstance(path, str | bytes | os.PathLike):
        if os.path.realpath(os.fsdecode(path)).startswith(root):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))
sys.addaudithook(guard)
from launcher.commands.cli import main
sys.exit(main(sys.argv[2:]))
"""
"""The command with a run folder that is as if mounted for reading only, whoever runs it."""


@pytest.fixture
def finished(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    plan = new_run(tmp_path, text=EVALUATED)
    for name in plan.recipe.stages:
        state = {"state": "done", "attempt": 1, "step": 0, "requeue": False, "time": ""}
        write_json(plan.run.stage(name).state, state)
        plan.run.stage("export").huggingface.mkdir(parents=True, exist_ok=True)
        write_json(plan.run.stage(name).result, {"loss": 2.5})
    return plan.run


def guarded(run: RunFolder, *argv: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", GUARDED, str(run.root), *argv],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["status", "small"], "pretrain"),
        (["list"], "small"),
        (["evaluate", "small"], '"loss": 2.5'),
        (["export", "small"], "runs/small/export/huggingface"),
        (["report", "small"], "small-report.html"),
        (["report", "small", "--output", "a/page.html"], "a/page.html"),
    ],
)
def test_a_finished_run_is_looked_at_without_writing_to_it(finished, tmp_path, argv, words):
    with hold(finished.lock, "small"):  # nor is it waited for
        done = guarded(finished, *argv)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    pages = [path.name for path in tmp_path.rglob("*.html")]
    assert pages == ([words.rpartition("/")[2]] if argv[0] == "report" else [])


def test_an_export_that_is_gone_is_not_shown_as_if_it_were_there(finished, capsys):
    finished.stage("export").huggingface.rmdir()
    assert cli.main(["export", "small"]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "distrain resume small --from export" in captured.err


def test_the_guard_refuses_what_writes(finished):
    done = guarded(finished, "run", str(finished.resolved))
    assert done.returncode == 4
    assert "Read-only file system" in done.stderr


def test_a_report_goes_into_the_run_folder_where_that_is_ours(finished, capsys):
    assert cli.main(["report", "small"]) == 0
    assert capsys.readouterr().out.startswith("runs/small/report.html  ")


def test_a_report_that_cannot_be_written_says_where_else(finished, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    assert cli.main(["report", "small", "--output", "folder"]) == 4
    assert "--output FILE" in capsys.readouterr().err


def test_again_uses_the_test_split_once_more_and_so_needs_the_lock(finished):
    with hold(finished.lock, "small"):
        done = guarded(finished, "evaluate", "small", "--again")
    assert done.returncode == 4
    assert json.loads(guarded(finished, "evaluate").stdout)["evaluate"] == {"loss": 2.5}
