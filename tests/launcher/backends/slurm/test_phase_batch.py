"""What a job that does one phase of a stage does; on a real Slurm: ``tests/cluster``."""

import json

import pytest

from tests.launcher.backends.slurm.batch_jobs import ANSWERS, Job, part


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Task 3 of the array that cleans; its answers are those of ``Job``."""
    job = Job(tmp_path, part("prepare.clean"))
    for name, value in {"ARRAY_JOB_ID": "4", "ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setitem(ANSWERS, f"SLURM_{name}", value)
    monkeypatch.setitem(ANSWERS, "ARRAY", "yes")
    return job


def test_a_task_ends_with_its_process_and_is_not_started_again(task):
    assert task.start() == (0, ["srun"])
    assert task.start(SRUN_CODE="75") == (75, ["srun"])
    assert "a later job does the rest" in task.output


def test_a_task_that_fails_is_started_again_by_its_own_id_a_few_times(task):
    for restart in range(3):
        answer = task.start(SRUN_CODE="1", SLURM_RESTART_COUNT=str(restart))
        assert answer == (75, ["srun", "requeue:4_3"])
    assert task.start(SRUN_CODE="1", SLURM_RESTART_COUNT="3") == (75, ["srun"])
    assert "attempt failed (exit code 1); a later job does the rest" in task.output


def test_at_the_time_limit_a_task_goes_on_later_unless_it_finished_nothing(task):
    assert task.start(SIGNAL="USR1") == (75, ["srun"])
    assert "no range was finished" in task.output
    assert task.start(SIGNAL="USR1", RANGE="00003") == (75, ["srun", "requeue:4_3"])
    assert task.start(SIGNAL="USR1", RANGE="00003") == (75, ["srun"]), "finished before"


def test_a_task_that_is_preempted_goes_on_later_and_one_that_is_cancelled_does_not(task):
    assert task.start(SIGNAL="TERM") == (75, ["srun", "requeue:4_3"])
    assert task.start(SIGNAL="TERM", JOB_STATE="CANCELLED") == (75, ["srun"])


def test_an_error_that_would_repeat_ends_the_tasks_that_begin_later(task):
    error = json.dumps({"exit_code": 4, "message": "a file changed"})
    assert task.start(ERROR=error, SRUN_CODE="1") == (6, ["srun"])
    assert task.start() == (6, [])


def test_the_first_job_of_a_stage_forgets_the_error_of_an_earlier_submission(tmp_path):
    job = Job(tmp_path, part("prepare.plan"))
    job.stage.error.write_text("{}")
    assert job.start() == (0, ["srun"])
    assert not job.stage.error.exists()


def test_a_task_of_a_stopped_run_does_not_begin(task):
    task.run.control.mkdir()
    task.run.stop.touch()
    assert task.start() == (75, [])
