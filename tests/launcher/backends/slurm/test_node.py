"""What srun starts on a node: attempts within a job, and one count of those in vain."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distrain.runs.failures import failure_of
from distrain.runs.json_lines import read_records
from distrain.runs.records import read_json
from launcher.backends.restart import AttemptEnd
from launcher.backends.slurm import batch
from launcher.backends.slurm.past import Past
from tests.launcher.backends.slurm.batch_jobs import Job
from tests.launcher.small_run import ROOT
from tests.runtime_command import runtime_command

# Does the next of the things that are planned in `$STAGE/plan`, and keeps the stage's records.
RUNTIME = """
import json, os, signal, sys
from pathlib import Path
stage = Path(os.environ["STAGE"])
word, *rest = (stage / "plan").read_text().split()
(stage / "plan").write_text(" ".join(rest))
with (stage / "did").open("a") as did:
    did.write(f"{word} ")
state = stage / "state.json"
before = json.loads(state.read_text()) if state.exists() else {"attempt": 0, "step": 0}
def record(word, step=before["step"]):
    attempt = before["attempt"] + 1
    state.write_text(json.dumps({"state": word, "attempt": attempt, "step": step, "requeue": True}))
record("running")
if word == "saves":
    record("running", before["step"] + 1)
if word == "kills":  # its supervisor
    os.kill(os.getppid(), signal.SIGKILL)
if word == "fails":
    (stage / "error.json").write_text('{"exit_code": 4, "message": "it would fail again"}')
if word in ("done", "yields"):
    record({"done": "done", "yields": "stopped"}[word])
sys.exit(word not in ("done", "yields"))
"""


class Node(Job):
    """A job of one node, whose supervisor is the real one."""

    def __init__(self, folder: Path, plan: str, max_restarts: int = 3) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "runtime.py").write_text(RUNTIME)
        python = runtime_command(folder / "python", folder / "runtime.py")
        super().__init__(folder, python=python, max_restarts=max_restarts)
        self.run_nodes()
        (self.stage.path / "plan").write_text(plan)

    def begin(self, restart: int = 0) -> tuple[int, list[str]]:
        return self.start(PYTHONPATH=str(ROOT), SLURM_RESTART_COUNT=str(restart))

    @property
    def did(self) -> str:
        return (self.stage.path / "did").read_text().strip()

    @property
    def left(self) -> str:
        return (self.stage.path / "plan").read_text()

    def restarts(self) -> list[str]:
        events = read_records(self.run.events)
        return [str(e["reason"]) for e in events if e["event"] == "restarted"]


def test_a_lost_process_is_replaced_in_the_job_without_a_requeue(tmp_path):
    job = Node(tmp_path, "dies saves done")
    assert job.begin() == (0, ["srun"])
    assert job.did == "dies saves done"
    assert job.restarts() == ["exit code 1", "exit code 1"]
    ends = Past(job.stage, "5").attempts()
    assert [(e.ending, e.committed) for e in ends] == [("crashed", False), ("crashed", True)]
    assert not job.stage.meeting("5.0").root.exists()


def test_words_that_another_job_of_the_same_numbers_left_behind_are_not_read(tmp_path):
    job = Job(tmp_path)
    meeting = job.stage.meeting("5.0")
    meeting.root.mkdir(parents=True)
    left = {"ending": "yielded", "committed": True, "how": "exit code 0"}
    meeting.start.write_text(json.dumps({"number": 7, "stage": "", "id": "", "last": left}))
    assert job.start(SRUN_CODE="1") == (75, ["srun", "requeue"])
    assert "attempt failed" in job.output
    assert not meeting.root.exists()


def test_attempts_in_vain_are_one_count_within_the_job_and_over_its_starts(tmp_path):
    """Killed with its supervisor, the third attempt ends the start; 4 may be in vain."""
    job = Node(tmp_path, "dies dies kills dies dies dies dies")
    assert job.begin() == (75, ["srun", "requeue"])
    assert job.begin(restart=1) == (6, ["srun"])
    assert job.did == "dies dies kills dies"
    assert "4 attempts in a row without a new checkpoint" in job.output
    assert job.restarts()[-1] == "attempt failed (exit code 137)"
    assert len(job.restarts()) == 3


def test_without_the_history_there_would_be_as_many_attempts_again(tmp_path):
    """The control of the test before."""
    job = Node(tmp_path, "dies dies kills dies dies dies dies")
    job.begin()
    job.stage.slurm_attempts("5").unlink()
    job.begin(restart=1)
    assert job.did == "dies dies kills dies dies dies dies"


@pytest.mark.seams
def test_a_new_checkpoint_earns_new_attempts_in_the_job_too(tmp_path):
    job = Node(tmp_path, "dies saves dies saves dies done", max_restarts=1)
    assert job.begin() == (0, ["srun"])
    assert Node(tmp_path / "control", "dies dies done", max_restarts=1).begin()[0] == 6


def test_a_stage_that_fails_for_good_is_not_tried_again_in_the_job(tmp_path):
    job = Node(tmp_path, "dies fails done")
    assert job.begin() == (6, ["srun"])
    assert "it would fail again" in job.output
    assert job.begin(restart=1) == (6, [])
    assert job.left == "done"
    failure = failure_of(job.stage)
    assert failure is not None


@pytest.mark.seams
def test_what_is_given_up_in_the_job_is_put_down_once(tmp_path):
    job = Node(tmp_path, "dies dies", max_restarts=1)
    assert job.begin() == (6, ["srun"])
    assert [e["event"] for e in read_records(job.run.events)] == ["restarted", "failed"]
    error = read_json(job.stage.error)
    assert error is not None
    assert (
        "2 attempts in a row without a new checkpoint, the last: attempt failed (exit code 1)"
        in (error["message"])
    )
    assert job.begin(restart=1) == (6, [])


@pytest.mark.seams
def test_a_stage_that_yields_is_requeued_and_not_started_again_in_the_job(tmp_path):
    job = Node(tmp_path, "yields done")
    assert job.begin() == (75, ["srun", "requeue"])
    assert job.begin(restart=1) == (0, ["srun"])
    assert job.restarts() == ["yielded"]


def test_a_start_that_was_lost_after_a_restart_within_it_is_not_held_against_the_stage(tmp_path):
    job = Node(tmp_path, "dies dies dies", max_restarts=1)
    Past(job.stage, "5").put_down(AttemptEnd("crashed", how="exit code 1"), 0, goes_on=True)
    assert job.begin(restart=1) == (6, ["srun"])
    assert job.did == "dies"
    assert job.restarts() == [batch.BY_SLURM]


@pytest.mark.seams
def test_a_history_of_an_earlier_version_has_an_attempt_a_start(tmp_path):
    job = Node(tmp_path, "dies dies", max_restarts=2)
    path = job.stage.slurm_attempts("5")
    path.parent.mkdir()
    path.write_text('{"ending": "crashed", "committed": false, "how": "exit code 1"}\n' * 2)
    assert job.begin(restart=2) == (6, ["srun"])
    assert job.did == "dies"


@pytest.mark.seams
def test_a_wish_to_yield_is_no_reason_to_start_again_in_the_job(tmp_path):
    job = Node(tmp_path, "dies done")
    srun = job.bin / "srun"
    srun.write_text(
        srun.read_text().replace("echo srun", 'touch "$STAGE/../control/yield"; echo srun')
    )
    assert job.begin() == (75, ["srun", "requeue"])
    assert job.did == "dies"


@pytest.mark.seams
def test_a_job_without_room_for_another_attempt_ends_with_its_own_word(tmp_path):
    job = Node(tmp_path, "dies done")
    before, supervisor = job.script.read_text().rsplit("\nexec ", 1)
    job.script.write_text(f"{before}\nulimit -f 32\nexec {supervisor}")
    assert job.begin() == (4, ["srun"])
    assert job.did == "dies"


@pytest.mark.parametrize("module", ["launcher.backends.slurm.node", "launcher.backends.slurm.job"])
def test_a_supervisor_needs_neither_torch_nor_the_schema(module):
    code = (
        f"import sys, {module}\n"
        "sys.exit(bool({'torch', 'numpy', 'pydantic', 'ruamel.yaml', 'jinja2'} & set(sys.modules)))"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
