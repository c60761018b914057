"""The first node of a job with spares where something else fails, too."""

import argparse
import errno
import os
import signal
import subprocess
import time
from types import SimpleNamespace
from typing import Any

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.lock import hold
from distrain.runs.records import read_json, write_json
from launcher.backends import nodes
from launcher.backends.beats import LOOK_S, SteadyPulse, Watch
from launcher.backends.members import Members, Standing, watch_members
from launcher.backends.orders import Orders, StageOrders
from launcher.backends.restart import AttemptEnd
from launcher.backends.slurm import node, stage_batch
from launcher.backends.slurm.batch import START
from launcher.backends.slurm.client import Answer
from launcher.backends.slurm.past import Past
from launcher.backends.slurm.stage_batch import StageBatch
from launcher.backends.starting import NodeStarter
from launcher.backends.terms import ReplacedError, Term
from tests.launcher.backends.two_nodes import wait_until

RUNNING = "JobId=1 JobState=RUNNING Restarts=0 \n"


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.stage("pretrain").path.mkdir(parents=True)
    return run


@pytest.fixture
def meeting(run):
    return run.stage("pretrain").meeting("1.0")


@pytest.fixture
def standing_of(meeting):
    pulses = []

    def make(term: Term, nodes: int = 2) -> Standing:
        orders = Orders(nodes, 3, (), spares=1)
        pulses.append(SteadyPulse(meeting.beat(term.member)))
        watches = watch_members(meeting, orders, term.member)
        return Standing(term, NodeStarter(term.member, print), pulses[-1], watches)

    yield make
    for pulse in pulses:
        pulse.end()


@pytest.fixture
def asked(monkeypatch):
    """What Slurm is asked; it answers that the job runs, and does what it is asked to."""
    asked: list[list[str]] = []

    def ask(argv):
        asked.append(list(argv))
        return Answer(0, RUNNING if "show" in argv else "", "")

    monkeypatch.setattr(node, "ask_slurm", ask)
    return asked


@pytest.fixture
def decider(run, meeting, standing_of, asked, monkeypatch):
    """The second node, which took the first one's place; the batch process is gone, too."""
    monkeypatch.setenv(START, "1.0")
    monkeypatch.setenv("SLURM_NNODES", "3")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1,n2")
    arguments = argparse.Namespace(
        run=run.root, stage="pretrain", processes=2, max_restarts=3, host="localhost", nodes=2,
        grace=10, command=["true"],
    )  # fmt: skip
    term = Term(1, 1, (0, 1), (0,), 0)
    standing = standing_of(term)
    assert term.claim(meeting)
    standing.watches[2].is_heard = True
    interruptions: Any = SimpleNamespace(count=0, kill=False)
    made: Any = node._Decider(run, meeting.in_term(1), arguments, interruptions, standing)
    made._batch.is_gone = lambda with_its_host: True
    return made


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_does_not_lose_the_requeue(decider, meeting, asked, monkeypatch):
    decider._settle = lambda: AttemptEnd("crashed", how="disk full")
    for module, name in ((node, "append_event"), (node, "add_strike"), (Past, "put_down")):
        monkeypatch.setattr(module, name, full)
    decider.run()
    assert ["scontrol", "requeue", "1"] in asked
    assert "end" in (read_json(meeting.in_term(1).start) or {})


def test_an_end_that_cannot_be_told_comes_after_the_requeue(decider, asked, monkeypatch):
    decider._settle = lambda: AttemptEnd("crashed", how="disk full")
    monkeypatch.setattr(nodes, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        decider.run()
    assert ["scontrol", "requeue", "1"] in asked


def test_the_others_are_told_of_the_end_also_if_it_cannot_be_seen_to(decider, meeting):
    decider._settle = lambda: AttemptEnd("crashed", how="exit code 1")
    decider._batch.end_job = full
    with pytest.raises(OSError, match="No space"):
        decider.run()
    assert "end" in (read_json(meeting.in_term(1).start) or {})


def test_ranks_of_a_lost_first_node_that_keep_the_lock_cost_a_requeue_and_no_attempt(
    decider, run, monkeypatch
):
    beats = []
    decider._settle = lambda: pytest.fail("it began")
    decider._first.pulse.beat = lambda: beats.append(1)
    monkeypatch.setattr(node, "LOCK_S", 0.3)
    with hold(run.stage("pretrain").lock, run.root.name):
        decider.run()
    assert beats, "it lives meanwhile"
    ends = Past(run.stage("pretrain"), "1").attempts()
    assert [end.ending for end in ends] == ["lost", "lost"]
    assert ends[-1].how == node.LOCKED


def test_a_bad_node_of_other_jobs_does_not_prevent_a_replacement(decider):
    decider._exclusion.due = lambda _: ["n1", "n9"]  # n9: of another job
    decider._exclusion.expand = lambda nodes: nodes.split(",")
    decider._first.members.name = lambda member: f"n{member + 1}"
    assert decider._first.members.gone == {0}
    assert not decider._has_bad_node()
    decider._exclusion.due = lambda _: ["n1", "n2", "n9"]
    assert decider._has_bad_node(), "n2 is in the job, and lives"


def begin(run, meeting, standing, command):
    stage = StageOrders("pretrain", 2, 2, command, {}, str(run.root / "logs"))
    orders = Orders(2, 3, (stage,), "localhost", spares=1)
    first = nodes.FirstNode(run, meeting, orders, print, can_return=False, standing=standing)
    return first, first.start("pretrain", None)


def test_a_node_that_never_came_is_given_up_for_a_spare(run, meeting, standing_of, monkeypatch):
    monkeypatch.setattr(nodes, "PATIENCE_S", 0.3)
    standing = standing_of(Term())
    first, part = begin(run, meeting, standing, ("true",))
    standing.watches[2].is_heard = True  # the spare
    wait_until(lambda: part.wait(0.05))
    part.close()
    assert part.end == "no word of node 1 within 0 s"
    assert part.is_lost
    assert part.may_go_on
    assert first.members.fill() == [(1, 2)]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_spare_that_was_heard_while_another_node_was_waited_for_takes_its_place(
    meeting, standing_of, is_there
):
    standing = standing_of(Term())
    members = Members(meeting, Orders(2, 3, (), spares=1), standing)
    if is_there:
        meeting.beat(2).touch()
    standing.watches[2]._looked -= 2 * LOOK_S  # nobody looked since
    members.give_up([1])
    assert members.can_go_on() is is_there


@pytest.fixture
def failing(run, meeting, standing_of):
    """An attempt of which this node's part has just been killed, and another node is the first."""
    first, part = begin(run, meeting, standing_of(Term()), ("sleep", "60"))
    word = {"id": part._id, "end": "", "ended": False, "node": "n1", "failure": None}
    write_json(meeting.word(1), word)
    wait_until(lambda: part.wait(0.05) or part._child is not None)
    assert Term(1, 1, (0, 1), (0,), 0).claim(meeting)
    part._child.kill()
    return first, part


def test_a_replaced_first_node_says_nothing_of_how_its_part_ended(failing):
    first, part = failing
    look, looks = first.require_office, []

    def first_look_is_too_early():
        looks.append(1)
        if len(looks) > 1:
            look()

    first.require_office = first_look_is_too_early
    with pytest.raises(ReplacedError):
        wait_until(lambda: part.wait(10))
    part.close()


def test_a_replaced_first_node_does_not_wait_for_the_others(failing):
    _, part = failing
    wait_until(lambda: part._child.wait(0.05))
    with pytest.raises(ReplacedError):
        part.close()


@pytest.fixture
def waiting(run, meeting, monkeypatch):
    """A batch process of two nodes, and the srun that it waits for."""
    monkeypatch.setenv(START, "1.0")
    monkeypatch.setenv("SLURM_NNODES", "2")
    batch: Any = object.__new__(StageBatch)
    batch.has_spares, batch.are_nodes_gone = True, False
    batch.run, batch.stage, batch.folder = run, "pretrain", run.stage("pretrain")
    batch.deadline, batch.patience_s = float("inf"), 0
    with subprocess.Popen(["sleep", "60"]) as srun:
        yield batch, srun
        srun.kill()


def test_srun_is_ended_once_all_nodes_that_were_heard_are_silent(waiting, meeting, monkeypatch):
    batch, srun = waiting
    looks: list[str] = []

    def looked(watch):
        watch.is_heard = len(looks) > 4
        looks.append(watch.path.name)
        return stage_batch.MEMBERS_S + 1

    monkeypatch.setattr(Watch, "look", looked)
    monkeypatch.setattr(stage_batch, "POLL_S", 0.01)
    assert batch._wait(srun) == -signal.SIGKILL
    assert batch.are_nodes_gone
    assert len(looks) >= 6, "before the first sign, nodes may only be late"
    assert {*looks} == {meeting.beat(0).name, meeting.beat(1).name}


def test_srun_is_not_ended_while_one_node_lives(waiting, meeting, monkeypatch):
    batch, srun = waiting

    def looked(watch):
        watch.is_heard = True
        return 0.0 if watch.path == meeting.beat(1) else stage_batch.MEMBERS_S + 1

    monkeypatch.setattr(Watch, "look", looked)
    batch.deadline = time.monotonic() + 0.3
    assert batch._wait(srun) is None
    assert srun.poll() is None
