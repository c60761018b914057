import subprocess
import sys

import pytest

from distrain.__main__ import run_phase, run_stage
from distrain.config.data import DataConfig
from distrain.config.recipe import PrepareStage, Recipe
from distrain.config.sources import FilesSource
from distrain.errors import DataError
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.phases import WHOLE
from distrain.runs.records import read_json, read_state, write_json

SCRIPT = """
import resource
from distrain.__main__ import allow_many_files
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 3000))
allow_many_files()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_process_may_open_as_many_files_as_the_system_lets_it():
    limits = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert limits.stdout.split() == ["(3000,", "3000)"]


@pytest.fixture
def refused(tmp_path):
    """A recipe whose only stage another attempt could not help, and its run."""
    data = DataConfig(source=FilesSource(kind="files", paths=(str(tmp_path / "absent"),)))
    stage = PrepareStage(kind="prepare", data=data)
    return Recipe(name="mine", stages={"prepare": stage}), RunFolder(tmp_path / "mine")


def test_an_error_that_would_repeat_is_in_the_state_with_its_remedy(refused):
    recipe, run = refused
    folder = run.stage("prepare")
    write_json(folder.state, {"state": "stopped", "attempt": 1, "step": 0, "requeue": True})
    with pytest.raises(DataError) as caught:
        run_stage(recipe, run, "prepare", 0)
    state = read_state(folder)
    assert state is not None
    assert (state["state"], state["attempt"], state["requeue"]) == ("failed", 2, False)
    assert state["error"] == read_json(folder.error)
    assert state["error"]["message"] == str(caught.value)
    assert state["error"]["remedy"] == caught.value.remedy
    assert state["error"]["exit_code"] == caught.value.exit_code
    assert state["error"]["time"] == state["time"]
    assert [event["event"] for event in read_records(run.events)] == ["started", "failed"]


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_rank_that_looks_late_records_its_failure_under_rank_0_s_attempt(refused, state):
    recipe, run = refused
    folder = run.stage("prepare")
    write_json(folder.state, {"state": state, "attempt": 2, "step": 0, "requeue": False})
    with pytest.raises(DataError):
        run_stage(recipe, run, "prepare", 1)
    left = read_state(folder)
    assert left is not None
    assert (left["state"], left["attempt"]) == ("failed", 2)
    assert [event["attempt"] for event in read_records(run.events)] == [2]


def test_a_phase_leaves_the_state_to_the_job_that_ends_the_stage(refused):
    recipe, run = refused
    with pytest.raises(DataError):
        run_phase(recipe, run, "prepare", "plan", WHOLE)
    assert run.stage("prepare").error.exists()
    assert not run.stage("prepare").state.exists()
