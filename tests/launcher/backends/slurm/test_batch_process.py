"""What the first node does of a job whose batch process is gone; on a real Slurm: ``cluster``."""

import threading
import time

import pytest

from distrain.runs.folder import RunFolder
from launcher.backends.slurm import batch_process
from launcher.backends.slurm.batch_process import BatchProcess
from launcher.backends.slurm.client import Answer
from launcher.backends.terms import ReplacedError

AWAY = Answer(1, "", "slurm_load_jobs error: Unable to contact slurm controller")
UNKNOWN = Answer(1, "", "slurm_load_jobs error: Invalid job id specified")
REFUSED = Answer(1, "", "Requested operation is presently disabled for job 5")
DONE = Answer(0, "", "")


def shown(state, restarts=2, end="Unknown"):
    return Answer(0, f"JobId=5 JobState={state} Restarts={restarts} EndTime={end} Nodes=1\n", "")


class Asked:
    """Slurm: the next answer to each command; the last one stays."""

    def __init__(self, show, requeue=(DONE,), scancel=(DONE,)):
        self.answers = {"show": [*show], "requeue": [*requeue], "scancel": [*scancel]}
        self.acts = []

    def __call__(self, argv):
        word = "scancel" if argv[0] == "scancel" else argv[1]
        if word != "show":
            self.acts.append(word)
        left = self.answers[word]
        return left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def process(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_process, "PAUSES_S", (0.01, 0.01, 0.01, 0.01, 0.01))
    monkeypatch.setattr(batch_process, "POLL_S", 0.005)
    monkeypatch.setattr(batch_process, "SILENCE_S", -1.0)
    run = RunFolder(tmp_path)
    run.control.mkdir()

    def begin(asked, look_around=lambda: None, grace_s=60.0):
        meeting = run.stage("pretrain").meeting("5.2")
        return BatchProcess(run, meeting, "5.2", grace_s, asked, look_around)

    return begin


def test_a_job_that_runs_is_requeued(process):
    asked = Asked([shown("RUNNING")])
    assert process(asked).end_job()
    assert asked.acts == ["requeue"]


@pytest.mark.parametrize(
    "state",
    [shown("COMPLETING"), shown("CANCELLED"), shown("PENDING"), shown("RUNNING", 3), UNKNOWN],
)
def test_what_slurm_has_cancelled_or_requeued_itself_stays_so(process, state):
    asked = Asked([state], requeue=[REFUSED])
    assert process(asked).end_job()
    assert asked.acts == []


def test_a_job_that_slurm_requeues_meanwhile_is_not_cancelled(process):
    asked = Asked([*[shown("RUNNING")] * 5, shown("PENDING")], requeue=[REFUSED])
    assert process(asked).end_job()
    assert asked.acts == ["requeue"] * 5


def test_slurm_is_asked_until_it_answers(process):
    away = Answer(1, "", "Unable to contact slurm controller (connect failure)")
    asked = Asked([*[AWAY] * 9, shown("RUNNING")], requeue=[*[away] * 9, DONE])
    assert process(asked).end_job()
    assert asked.acts == ["requeue"] * 10


def test_a_job_that_may_not_be_requeued_is_cancelled_and_the_answer_is_heard(process):
    asked = Asked([shown("RUNNING")], requeue=[REFUSED], scancel=[AWAY, REFUSED, DONE])
    assert not process(asked).end_job()
    assert asked.acts == ["requeue"] * 5 + ["scancel"] * 3


def test_a_node_gives_signs_of_life_while_slurm_does_not_answer(process):
    beats, answered = [], threading.Event()

    def look_around():
        beats.append(time.monotonic())
        if len(beats) == 5:
            answered.set()

    def ask(argv):
        assert answered.wait(30), "no sign of life while it is asked"
        return shown("CANCELLED")

    assert process(ask, look_around).end_job()


def test_a_node_that_was_replaced_leaves_the_job_to_the_other_one(process):
    def look_around():
        raise ReplacedError(1)

    asked = Asked([AWAY])
    with pytest.raises(ReplacedError):
        process(asked, look_around).end_job()
    assert asked.acts == []


def test_the_time_limit_is_asked_for_until_slurm_tells_it(process, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_process, "ASK_AGAIN_S", 0.0)
    yielded = RunFolder(tmp_path).yield_
    asked = Asked([AWAY, AWAY, shown("RUNNING", end="2020-01-01T00:00:00")])
    job = process(asked)
    for _ in range(2):
        job.stand_in()
        assert not yielded.exists()
    job.stand_in()
    assert yielded.exists()
    assert asked.acts == ["requeue"], "its time was over, and it had not yielded"
    job.stand_in()
    assert asked.acts == ["requeue"]


def test_a_job_in_its_grace_period_has_time_to_yield(process, tmp_path):
    end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 300))
    asked = Asked([shown("RUNNING", end=end)])
    process(asked).stand_in()
    assert not RunFolder(tmp_path).yield_.exists()
    process(asked, grace_s=600.0).stand_in()
    assert RunFolder(tmp_path).yield_.exists()
    assert asked.acts == []
