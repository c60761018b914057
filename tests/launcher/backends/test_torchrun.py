"""What each node of a cluster without a scheduler runs, with a runtime that only counts."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from distrain.errors import ExitCode, RecipeError
from distrain.runs.failures import failure_of
from distrain.runs.json_lines import read_records
from distrain.runs.lock import is_held, wait_until_free
from distrain.runs.records import read_json, read_state, write_json
from launcher.backends.interrupt import Interruptions
from launcher.backends.nodes import FirstNode
from launcher.backends.other_node import OtherNode
from launcher.backends.torchrun import TorchrunBackend, is_first_node, orders_of
from tests.launcher.backends.two_nodes import STAGES, Nodes, free_port, wait_until
from tests.launcher.small_run import ROOT


def test_every_node_runs_one_command_and_what_it_starts_is_shown(make_plan):
    first, second = TorchrunBackend().render(make_plan()).split("\n\n")
    for node, text in enumerate((first, second)):
        assert "-m launcher.backends.node '" in text.splitlines()[1]
        assert text.splitlines()[1].endswith(f" {node}")
        assert "-m distrain.fork_server '" in text
        assert " pretrain --ranks=2" in text
        assert "PYTHONUNBUFFERED=1" in text
    assert "-m distrain stage" in first
    assert "-m distrain stage" not in second


def test_several_nodes_without_a_rendezvous_are_refused(make_plan):
    with pytest.raises(RecipeError, match=r"expected host:port of the first of 2 nodes"):
        orders_of(make_plan(rendezvous=None))


def test_the_address_of_a_node_has_brackets_before_its_port_alone(make_plan):
    orders = orders_of(make_plan(rendezvous="[fe80::1]:29400"))
    assert (orders.host, orders.port) == ("fe80::1", 29400)


def test_a_machine_knows_whether_it_is_the_first_node(make_plan):
    assert is_first_node(make_plan(rendezvous="localhost:29400"))
    assert not is_first_node(make_plan(rendezvous="192.0.2.1:29400"))  # of no machine
    assert not is_first_node(make_plan(rendezvous="no-such-host.invalid:1"))


def test_a_supervisor_needs_neither_torch_nor_the_schema():
    code = (
        "import sys, launcher.backends.node\n"
        "sys.exit(bool({'torch', 'numpy', 'pydantic', 'ruamel.yaml', 'jinja2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_rank_killed_on_the_second_node_is_replaced_without_a_word(make_plan, tmp_path):
    plan = make_plan(rendezvous=f"localhost:{free_port()}")
    with Nodes(plan, tmp_path) as nodes:
        second, first = nodes.start(1), nodes.start(0)
        pids = {rank: nodes.pid_of_rank(rank) for rank in (0, 1)}
        start = read_json(plan.run.meeting.start)
        victim = next(pid for pid in pids.values() if nodes.node_of(pid) == 0)
        # Supervisors are in the order of their start: number 0 is that of the second node.
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: all(nodes.pid_of_rank(r) not in pids.values() for r in (0, 1)))
        again = read_json(plan.run.meeting.start)
        (plan.run.root / "go").touch()
        assert (first.wait(60), second.wait(60)) == (0, 0)
    assert start is not None
    assert again is not None
    assert again["number"] == start["number"] + 1
    assert again["id"] != start["id"]
    events = [e["event"] for e in read_records(plan.run.events) if e["stage"] == "pretrain"]
    assert events == ["restarted"]
    found = {
        stage.name: sorted(p.name for p in plan.run.stage(stage.name).path.glob("rank*"))
        for stage in STAGES
    }
    assert found["prepare"] == found["export"] == ["rank0of1"]
    assert found["pretrain"] == ["rank0of2", "rank1of2"]


def test_a_start_that_is_over_for_the_first_node_leaves_nothing_on_the_others(make_plan, tmp_path):
    """Else a rank that hangs there keeps the stage's lock, and no other start could be made."""
    plan = make_plan()
    with Nodes(plan, tmp_path, DEAF="1") as nodes:
        lock = plan.run.stage("pretrain").lock
        lock.parent.mkdir()
        script = tmp_path / "rank"
        deaf = f"exec flock {shlex.quote(str(lock))} sleep 60"
        script.write_text(f'#!/bin/sh\n[ "$DEAF" = 1 ] || exit 3\n{deaf}\n')
        script.chmod(0o755)
        orders = orders_of(plan, str(script))
        orders.write(plan.run.meeting)
        first = FirstNode(plan.run, plan.run.meeting, orders, print)
        second = nodes.start(1)
        part = first.start("pretrain", tmp_path / "log")
        wait_until(lambda: is_held(lock))
        wait_until(lambda: part.wait(1))
        assert part.end == "rank 0: exit code 3"
        assert is_held(lock)
        part.close()
        wait_until_free(lock, "mine")
        assert second.poll() is None, "it waits for the next start"
        first.end(ExitCode.STOPPED)
        assert second.wait(60) == ExitCode.STOPPED


def test_a_start_that_ended_well_is_not_over_before_its_record_is_seen(make_plan, tmp_path):
    """Rank 0 may be on another node, and a shared file system late."""
    plan = make_plan()
    state = plan.run.stage("prepare").state
    write_json(state, {"state": "stopped", "attempt": 1})  # by the start before
    part = FirstNode(plan.run, plan.run.meeting, orders_of(plan, "true"), print).start(
        "prepare", tmp_path / "log"
    )
    assert not part.wait(1)
    write_json(state, {"state": "done", "attempt": 2})
    assert part.wait(1)
    assert part.end == "exit code 0"
    part.close()


def test_a_stage_that_keeps_failing_is_given_up_on_every_node(make_plan, tmp_path):
    plan = make_plan(restarts=1)
    write_json(plan.run.meeting.start, {"number": 7, "stage": "export", "id": "old", "end": 0})
    with Nodes(plan, tmp_path, CRASH="prepare") as nodes:
        second = nodes.start(1)
        # By then it knows the old start; one that comes after the whole run is too late for it.
        wait_until(lambda: plan.run.meeting.beat(1).exists())
        first = nodes.start(0)
        assert (first.wait(60), second.wait(60)) == (ExitCode.TRAINING, ExitCode.TRAINING)
        assert first.stderr is not None
        err = first.stderr.read()
    assert "the reason is here" in err
    assert "2 attempts in a row without a new committed step (launch.max_restarts=1)" in err
    state, failure = read_state(plan.run.stage("prepare")), failure_of(plan.run.stage("prepare"))
    assert state is not None
    assert failure is not None
    assert (state["state"], state["attempt"]) == ("failed", 2)
    assert "distrain logs" in failure.remedy


@pytest.mark.parametrize("wish", ["stop", "yield"])  # the second by a signal to another node
def test_a_run_that_is_to_end_while_it_waits_for_a_node_has_not_failed(make_plan, tmp_path, wish):
    plan = make_plan()
    write_json(plan.run.stage("prepare").state, {"state": "done", "attempt": 1})
    with Nodes(plan, tmp_path) as nodes:
        first = nodes.start(0)
        wait_until(lambda: plan.run.meeting.start.exists())
        time.sleep(0.5)
        plan.run.control.mkdir(exist_ok=True)
        (plan.run.control / wish).touch()
        assert first.wait(60) == ExitCode.STOPPED
        assert first.stderr is not None
        assert "pretrain: waits for node 1" in first.stderr.read()
    assert failure_of(plan.run.stage("pretrain")) is None
    assert json.loads(plan.run.meeting.start.read_text())["end"] == ExitCode.STOPPED


def test_a_node_that_hears_nothing_after_its_part_failed_says_so(make_plan, tmp_path):
    plan = make_plan(rendezvous="no-such-host.invalid:1")
    python = str(tmp_path / "fails")
    (tmp_path / "fails").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "fails").chmod(0o755)
    orders_of(plan, python).write(plan.run.meeting)
    write_json(plan.run.meeting.start, {"number": 4, "stage": "pretrain", "id": "a"})
    with pytest.raises(Exception, match=r"no word of the first node for \d s, after start 4"):
        OtherNode(plan.run, plan.run.meeting, 1, patience_s=0).run(Interruptions(plan.run))
    word = read_json(plan.run.meeting.word(1))
    assert word is not None
    assert (word["id"], word["end"], word["ended"]) == ("a", "rank 1: exit code 3", True)


def test_a_start_that_a_killed_run_left_for_a_stage_of_other_orders_is_passed_over(
    make_plan, tmp_path
):
    plan = make_plan()
    write_json(plan.run.meeting.start, {"number": 4, "stage": "sft", "id": "a"})
    with Nodes(plan, tmp_path, CRASH="prepare") as nodes:
        second = nodes.start(1)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(2)
        first = nodes.start(0)
        assert (first.wait(60), second.wait(60)) == (ExitCode.TRAINING, ExitCode.TRAINING)


def test_a_run_that_is_done_lets_every_node_go(make_plan, tmp_path):
    plan = make_plan()
    for stage in STAGES:
        write_json(plan.run.stage(stage.name).state, {"state": "done", "attempt": 1})
    orders_of(plan).write(plan.run.meeting)
    assert OtherNode(plan.run, plan.run.meeting, 1).run(Interruptions(plan.run)) is ExitCode.DONE
