import json
import os
import subprocess
import sys

import pytest

from distrain.runs.records import append_event, write_json
from tests.launcher.small_run import ROOT, new_run

pytestmark = pytest.mark.usefixtures("runs_dir")


def test_the_status_of_the_latest_run_needs_no_name(distrain, tmp_path):
    new_run(tmp_path)
    assert "pretrain" in distrain("status")[1]
    rows = json.loads(distrain("status", "smal", "--json")[1])["result"]["stages"]
    assert [row["stage"] for row in rows] == ["prepare", "pretrain", "export"]


def test_stop_says_when_nothing_runs_and_leaves_no_wish_behind(distrain, tmp_path):
    plan = new_run(tmp_path)
    code, out, _ = distrain("stop", "small")
    assert (code, out) == (0, "nothing of run small is running\n")
    assert not plan.run.stop.exists()


def test_logs_can_show_the_failure_only(distrain, tmp_path):
    plan = new_run(tmp_path)
    log = plan.run.stage("prepare").log(1)
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    assert distrain("logs")[1].count("\n") == 100
    assert distrain("logs", "--errors")[1].count("\n") == 20
    assert distrain("logs", "--attempt", "2")[0] == 7


def test_logs_are_cut_to_the_last_lines_and_to_one_rank(distrain, tmp_path):
    log = new_run(tmp_path).run.stage("prepare").log(1)
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"[rank {n % 2}] line {n}\n" for n in range(10)))
    assert distrain("logs", "--tail", "2")[1] == "[rank 0] line 8\n[rank 1] line 9\n"
    assert distrain("logs", "--tail", "1", "--rank", "0")[1] == "[rank 0] line 8\n"
    assert distrain("logs", "--tail", "0")[1] == ""
    assert distrain("logs", "--tail", "99")[1] == log.read_text()
    assert distrain("logs", "-f", "--json")[0] == 2


def test_logs_are_followed_until_the_run_has_ended(tmp_path):
    """Another process plays the run: it holds the lock, writes two lines, and ends."""
    run = new_run(tmp_path).run
    log = run.stage("prepare").log(1)
    log.parent.mkdir(parents=True)
    log.write_text("before\n")
    player = (
        "import sys, time; from pathlib import Path; from distrain.runs.lock import hold\n"
        "lock, log, go = map(Path, sys.argv[1:])\n"
        "with hold(lock, 'small'), log.open('a', buffering=1) as file:\n"
        "    print('held', flush=True)\n"
        "    while not go.exists(): time.sleep(0.02)\n"
        "    print('one', file=file); time.sleep(0.7); print('two', file=file)\n"
    )
    argv = [str(run.lock), str(log), str(tmp_path / "go")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", player, *argv], stdout=subprocess.PIPE, env=environment
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        follow = [sys.executable, "-m", "launcher", "logs", "small", "-f", "--tail", "1"]
        with subprocess.Popen(
            follow, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        ) as following:
            assert following.stdout is not None
            assert following.stdout.readline() == "before\n"
            (tmp_path / "go").touch()
            assert following.stdout.read() == "one\ntwo\n"
        assert following.returncode == 0


def test_stop_waits_until_the_run_has_ended(tmp_path, distrain):
    """Another process holds the stage until it sees the wish, as the runtime does."""
    plan = new_run(tmp_path)
    folder = plan.run.stage("pretrain")
    state = {"state": "running", "attempt": 1, "step": 4, "requeue": False, "time": ""}
    write_json(folder.state, state)
    append_event(plan.run.events, "started", "pretrain", attempt=1)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, json, sys, time; from pathlib import Path\n"
            "lock, wish, state = map(Path, sys.argv[1:])\n"
            "file = lock.open('w'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True)\n"
            "while not wish.exists(): time.sleep(0.05)\n"
            "record = json.loads(state.read_text()) | {'state': 'stopped', 'step': 5}\n"
            "state.write_text(json.dumps(record))\n",
            str(folder.lock),
            str(plan.run.stop),
            str(folder.state),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()

    code, out, _ = distrain("stop", "small")

    assert holder.wait(timeout=10) == 0
    assert code == 0
    assert "pretrain at step 5" in out
