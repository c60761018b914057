"""Supervisors that hang or are gone, and how the others notice: in real time, but hurried."""

import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from distrain.errors import ExitCode
from distrain.runs.folder import NodeFiles
from distrain.runs.records import read_json
from launcher.backends import beats, nodes
from launcher.backends.beats import Pulse, Watch
from launcher.backends.members import watch_members
from launcher.backends.nodes import FirstNode
from launcher.backends.orders import Orders
from launcher.backends.torchrun import orders_of
from tests.launcher.backends.two_nodes import Nodes, wait_until

SILENCE_S = 1.5
PATIENCE_S = 3.0


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(beats, "BEAT_S", 0.1)
    monkeypatch.setattr(beats, "LOOK_S", 0.05)
    monkeypatch.setattr(nodes, "SILENCE_S", SILENCE_S)


@pytest.fixture
def two(make_plan, tmp_path, hurried):
    """The first node in this process, the second as a process; both run what `script` says."""
    plan = make_plan()
    with Nodes(plan, tmp_path) as both:
        both.hurry(SILENCE_S, patience_s=PATIENCE_S)
        script = tmp_path / "part"
        # As a fork server it ends, and so each rank starts cold.
        cold = 'case "$*" in *fork_server*) exit 3 ;; esac\nexec sleep 60\n'
        script.write_text(f'#!/bin/sh\n[ ! -e "$FAILS" ] || exit 3\n{cold}')
        script.chmod(0o755)
        both.orders = orders_of(plan, str(script))
        both.orders.write(plan.run.meeting)
        yield both


def begin(two: Nodes, *, can_return: bool = True) -> "nodes.FirstNodesProcesses":
    """Start the stage over both nodes, and wait until it runs on both."""
    first = FirstNode(two.run, two.run.meeting, two.orders, print, can_return=can_return)
    part = first.start("pretrain", two.run.root / "log")
    two.start(1)
    watched: Any = None
    while watched is None or not watched._child._ranks:
        assert not part.wait(0.1)
        watched = part._child
    return part


def goes_on_for(part, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if part.wait(0.1):
            return False
    return True


def test_a_file_whose_time_changes_is_alive_and_the_pauses_of_a_reader_are_no_silence(
    tmp_path, hurried
):
    pulse, watch = Pulse(tmp_path / "nodes" / "1.beat"), Watch(tmp_path / "nodes" / "1.beat")
    time.sleep(0.1)
    assert 0 < watch.look() < 0.3
    assert not watch.is_heard
    pulse.beat()
    time.sleep(0.1)
    assert (watch.look(), watch.is_heard) == (0, True)
    time.sleep(0.6)  # this process hangs
    assert watch.look() <= 2 * beats.BEAT_S
    for _ in range(10):
        time.sleep(0.06)
        silent_s = watch.look()
    assert silent_s > 2 * beats.BEAT_S, "it looked, and saw nothing"


def test_the_pauses_of_a_member_count_less_than_the_silence_that_it_judges_by(tmp_path):
    meeting = NodeFiles(tmp_path)
    clock = [0.0]

    def hang_of(spares: int | None, monkeypatch: pytest.MonkeyPatch) -> float:
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        watch = watch_members(meeting, Orders(2, 3, (), spares=spares), 0)[1]
        clock[0] += 300
        return watch.look()

    with pytest.MonkeyPatch.context() as patch:
        assert hang_of(1, patch) < beats.QUIET_S / 4
        assert hang_of(None, patch) == 2 * beats.BEAT_S, "without spares, as ever"


def test_a_process_that_was_suspended_gives_signs_again_and_one_that_hangs_does_not(
    tmp_path, monkeypatch
):
    """Driven by hand: the first wait for the next beat takes as long as the process slept."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(threading.Thread, "start", lambda _: None)
    pulse: Any = beats.SteadyPulse(tmp_path / "0.beat")
    signs: list[float] = []
    pulse._touch = lambda: signs.append(clock[0])

    def after(*seconds: float) -> list[float]:
        steps = iter(seconds)

        def wait(_: float) -> bool:
            step = next(steps, None)
            clock[0] += step or 0.0
            return step is None

        signs.clear()
        pulse._is_over = SimpleNamespace(wait=wait)
        pulse._go_on()
        return [*signs]

    pulse.beat()
    assert len(after(5, 300, 5)) == 3
    clock[0] += 1000
    pulse.beat()
    assert len(after(*[5] * 20)) == beats.SILENCE_S / 5 - 1, "it hangs"


@pytest.mark.seams
def test_a_node_that_hangs_loses_the_attempt_and_one_that_lives_does_not(two, monkeypatch):
    monkeypatch.setattr(nodes, "GRACE_S", 0.2)
    part = begin(two)
    assert goes_on_for(part, 2 * SILENCE_S)
    two.processes[0].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    wait_until(lambda: part.wait(0.1))
    assert time.monotonic() - began < SILENCE_S + 2
    part.close()
    assert part.is_lost
    assert part.end == f"node 1: no sign of life for {SILENCE_S:.0f} s"


@pytest.mark.parametrize("dies", [True, False])
def test_a_part_that_fails_was_lost_only_if_another_node_is_gone(two, dies):
    """The ranks of all nodes fail when one node dies; that is not held against the stage."""
    part = begin(two)
    if dies:
        two.processes[0].kill()
    assert part._child is not None
    part._child.kill()
    wait_until(lambda: part.wait(0.1))
    part.close()
    assert part.is_lost is dies
    if not dies:
        assert part.end == "rank 0: killed by SIGKILL"
        word = read_json(two.run.meeting.word(1))
        assert word is not None
        assert word["ended"], "nothing is left there before the next start"


@pytest.mark.seams
@pytest.mark.parametrize("can_return", [True, False])
def test_a_node_whose_ranks_cannot_be_killed_is_lost_where_another_takes_its_place(two, can_return):
    part = begin(two, can_return=can_return)
    watched: Any = part._child
    watched._child.is_unkillable = True
    part.kill()
    part.close()
    assert part.is_lost is not can_return


@pytest.mark.seams
def test_where_a_node_cannot_return_a_silent_one_is_not_waited_for(two):
    part = begin(two, can_return=False)
    first = part._first
    part.kill()
    part.close()
    two.processes[0].send_signal(signal.SIGSTOP)
    again = first.start("pretrain", two.run.root / "log")
    wait_until(lambda: again.wait(0.1))
    again.close()
    assert again.is_lost


@pytest.mark.seams
def test_a_first_node_that_is_gone_ends_the_others_which_leave_nothing_behind(two):
    part = begin(two)
    assert goes_on_for(part, 2 * SILENCE_S)
    assert two.processes[0].poll() is None
    # From here on the first node does nothing any more.
    began = time.monotonic()
    assert two.processes[0].wait(20) == ExitCode.TRAINING
    assert time.monotonic() - began < PATIENCE_S + 3
    assert two.processes[0].stderr is not None
    assert "no word of the first node for 3 s, after start 1" in two.processes[0].stderr.read()
    word = read_json(two.run.meeting.word(1))
    assert word is not None
    assert (word["end"], word["ended"]) == ("killed by SIGKILL", True)
    part.kill()
    part.close()


@pytest.mark.seams
def test_a_node_that_was_started_before_the_first_one_waits_for_it(two):
    """Nodes may be started in any order; only a first node that was there can be gone."""
    second = two.start(1)
    time.sleep(PATIENCE_S + 1)
    assert second.poll() is None
