"""Real processes with real pages, of toy ranks without torch: found, told of, ended."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.incidents import describe_incident, read_incidents
from distrain.runs.progress_page import PAGES, WATCHDOG, read_pages
from launcher.backends.eyes import state_of_threads
from launcher.backends.incidents import WatchedStage, find_py_spy
from launcher.backends.processes import Child
from launcher.backends.remembered import read_remembered
from launcher.backends.watched import Watched

LOOP = """
import ctypes, os, subprocess, sys, time
from distrain.fault import page as fault
from distrain.fault.page import page
from pathlib import Path

rank, fault_of_rank_1 = int(os.environ["RANK"]), sys.argv[1]
here = Path(sys.argv[2])
if rank == 0:
    other = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=os.environ | {"RANK": "1"})
if rank == 1 and fault_of_rank_1 == "no page":
    time.sleep(600)
fault.open_page()
fault.be_judged()
fault.begin_steps(0)

def meet(step):
    page.wait_begins()
    (here / f"{rank}-{step}").touch()
    while not (here / f"{1 - rank}-{step}").exists():
        time.sleep(0.001)
    page.wait_ends()

for step in range(1000):
    page.mark("data", step)
    until = time.monotonic() + 1.5
    while fault_of_rank_1 == "slow" and time.monotonic() < until:
        pass
    time.sleep(0.002)
    page.mark("update")
    if rank == 1 and step == 40:
        if fault_of_rank_1 == "lock":
            while True:
                ctypes.PyDLL(None).sleep(600)
        if fault_of_rank_1 == "past":
            meet(10_000)
    if rank == 0 and step == 40 and fault_of_rank_1 == "pid":
        time.sleep(600)
    meet(step)
"""


def begin(folder, fault, **settings):
    run = RunFolder(folder / "run")
    run.stage("train").path.mkdir(parents=True)
    (folder / "meet").mkdir()
    settings = {"floor_s": 1.0} | settings
    env = os.environ | {"RANK": "0", "LOCAL_WORLD_SIZE": "2", WATCHDOG: json.dumps(settings)}
    command = [sys.executable, "-c", LOOP, fault, str(folder / "meet")]
    place = WatchedStage(run, "train", node=0, nodes=1)
    return Watched(lambda env: Child(command, env, folder / "log"), env, place)


def wait_for_end(processes, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not processes.wait(0.2):
        assert time.monotonic() < deadline
    processes.close()


def marks(folder, rank):
    return len(list((folder / "meet").glob(f"{rank}-*")))


@pytest.mark.parametrize(("fault", "phase"), [("lock", "update"), ("past", "update")])
def test_the_rank_to_blame_is_named_with_its_line(tmp_path, fault, phase):
    processes = begin(tmp_path, fault)
    wait_for_end(processes)
    (incident,) = read_incidents(processes._place.folder)
    blamed = 1 if fault == "lock" else 0  # who went past has begun one collective more
    if fault == "past":
        assert "all wait" in incident["why"]
    else:
        assert incident["rank"] == blamed
        assert processes.end.startswith(f"hung: rank 1 on {os.uname().nodename} in phase {phase}")
        assert incident["line"] == "<string>:34 in <module>"
    assert incident["age_s"] < 3
    assert [seen["rank"] for seen in incident["ranks"]] == [0, 1]
    assert "limit 1.0 s" in describe_incident(incident)
    (event,) = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").open()]
    assert (event["event"], event["incident"]) == ("hung", 1)
    assert not list(processes._pages.parent.glob(f"*{processes._pages.name}*"))


def wait_for_marks(processes, folder, count=30):
    while marks(folder, 1) < count:
        assert not processes.wait(0.05)


def test_a_stopped_rank_is_ended_and_its_stacks_are_not_waited_for(tmp_path):
    processes = begin(tmp_path, "none")
    wait_for_marks(processes, tmp_path)
    victim = read_pages(processes._pages)[1]
    os.kill(victim.pid, signal.SIGSTOP)
    wait_for_end(processes)
    (incident,) = read_incidents(processes._place.folder)
    assert (incident["rank"], incident["ranks"][1]["state"]) == (1, "T")
    assert "stopped (state T)" in processes.end


@pytest.mark.hangs  # `make test-hangs` installs the extra of which py-spy is
def test_py_spy_sees_a_stopped_rank_too(tmp_path):
    assert find_py_spy() is not None
    processes = begin(tmp_path, "none")
    wait_for_marks(processes, tmp_path)
    os.kill(read_pages(processes._pages)[1].pid, signal.SIGSTOP)
    wait_for_end(processes)
    (incident,) = read_incidents(processes._place.folder)
    assert [bool(seen["line"]) for seen in incident["ranks"]] == [True, True]
    assert incident["line"].startswith("<string>:")
    stacks = tmp_path / "run" / "train" / "incidents" / "1" / "1.stacks"
    assert stacks.read_text().startswith("Process ")


def test_a_job_that_was_suspended_as_a_whole_goes_on(tmp_path):
    """Ranks and whoever watches stop together; the clock goes on."""
    processes = begin(tmp_path, "none")
    wait_for_marks(processes, tmp_path)
    ranks = [page.pid for page in read_pages(processes._pages)]
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.6)  # nobody looks meanwhile
    assert not processes.wait(0.3)
    for pid in reversed(ranks):
        os.kill(pid, signal.SIGCONT)
    before = marks(tmp_path, 1)
    wait_for_marks(processes, tmp_path, before + 20)
    assert not processes.halted
    processes.close()
    assert read_incidents(processes._place.folder) == []


def test_what_is_switched_off_is_not_judged(tmp_path):
    run = RunFolder(tmp_path)
    env = os.environ | {WATCHDOG: "null"}
    command = [sys.executable, "-c", "import os; print(os.environ['" + PAGES + "'])"]
    place = WatchedStage(run, "train", node=0, nodes=1)
    processes = Watched(lambda env: Child(command, env, tmp_path / "log"), env, place)
    wait_for_end(processes)
    assert (processes.code, processes.end, processes.halted) == (0, "exit code 0", "")
    assert (tmp_path / "log").read_text().strip() == str(processes._pages)


@pytest.mark.hangs
def test_a_limit_of_the_user_that_ended_an_attempt_is_named(tmp_path):
    processes = begin(tmp_path, "lock", limits_s={"update": 2.0})
    wait_for_end(processes)
    assert "(limit 2.0 s, launch.watchdog.limits.update)" in processes.end


@pytest.mark.hangs
def test_what_halts_again_in_the_same_place_has_twice_the_time(tmp_path):
    for folder in (tmp_path / "0", tmp_path / "1"):
        folder.mkdir()
        processes = begin(folder, "lock")
        before = tmp_path / "0" / "run" / "train" / "incidents"
        processes._before = read_incidents(RunFolder(tmp_path / "0" / "run").stage("train"))
        assert before.exists() == bool(processes._before)
        wait_for_end(processes)
    (incident,) = read_incidents(processes._place.folder)
    assert incident["age_s"] > 2.0


@pytest.mark.hangs
def test_a_limit_of_the_user_below_a_step_ends_no_attempt_and_is_told_of(tmp_path):
    processes = begin(tmp_path, "slow", limits_s={"data": 1.0})
    wait_for_marks(processes, tmp_path, 8)
    assert not processes.halted
    processes.close()
    (event,) = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").open()]
    assert (event["event"], event["phase"], event["limit_s"]) == ("watchdog_limit", "data", 1.0)
    assert "launch.watchdog.limits.data: found 1 s; expected more than" in event["reason"]
    remembered = read_remembered(processes._place.folder)
    assert remembered["data"] > 1.4


@pytest.mark.hangs
def test_a_rank_that_never_begins_its_page_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("launcher.backends.limits.SEEN_FLOOR_S", 3.0)
    processes = begin(tmp_path, "no page")
    wait_for_end(processes)
    assert processes.end.startswith(f"hung: rank 1 on {os.uname().nodename} in phase import")
    (incident,) = read_incidents(processes._place.folder)
    assert (incident["rank"], incident["ranks"][1]["rank"]) == (1, 1)
    assert incident["ranks"][1]["pid"] > 0
    assert "1 of 2 ranks have" in incident["why"]


BUSY = """
import sys, time
from distrain.fault import page

page.open_page()
page.begin_work("prepare")
page.be_judged()
while True:
    pass
"""


@pytest.mark.hangs
def test_what_is_busy_where_no_limit_holds_is_told_of_and_goes_on(tmp_path):
    run = RunFolder(tmp_path)
    env = os.environ | {WATCHDOG: json.dumps({"first_s": 1.0})}
    place = WatchedStage(run, "prepare", node=0, nodes=1)
    command = [sys.executable, "-c", BUSY]
    processes = Watched(lambda env: Child(command, env, tmp_path / "log"), env, place)
    deadline = time.monotonic() + 60
    while not run.events.exists():
        assert not processes.wait(0.2)
        assert time.monotonic() < deadline
    processes.close()
    assert not processes.halted
    (event,) = [json.loads(line) for line in run.events.open()]
    assert (event["event"], event["phase"]) == ("no_mark", "prepare")
    assert "launch.watchdog.limits.prepare" in event["reason"]
    assert "in <module>" in event["line"]


def test_any_thread_may_be_the_one_that_waits_for_a_file_system(monkeypatch):
    """No file system that hangs is at hand: what the system says of one thread is made up."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert state_of_threads(os.getpid()) == "S"
        told = {f"{os.getpid()}/task/{thread.native_id}": ["I"]}
        monkeypatch.setattr("launcher.backends.eyes.stat_fields", lambda task: told.get(task, "S"))
        assert state_of_threads(os.getpid()) == "I"
    finally:
        done.set()
        thread.join()
