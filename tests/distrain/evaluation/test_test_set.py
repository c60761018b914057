import pytest

from distrain.errors import PreflightError
from distrain.evaluation import test_set
from distrain.runs.folder import RunFolder
from distrain.runs.records import read_json


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def test_a_finished_use_uses_it_up(run):
    test_set.claim(run, "evaluate")
    test_set.finish(run, "evaluate")
    with pytest.raises(PreflightError, match=r"was used by stage 'evaluate'.*--again"):
        test_set.claim(run, "evaluate")


def test_another_stage_may_not_use_it_either(run):
    test_set.claim(run, "evaluate")
    test_set.finish(run, "evaluate")
    with pytest.raises(PreflightError):
        test_set.claim(run, "evaluate_2")


def test_a_killed_use_goes_on(run):
    test_set.claim(run, "evaluate")
    test_set.claim(run, "evaluate")
    uses = (read_json(run.test_opened) or {})["uses"]
    assert len(uses) == 1


def test_a_second_look_is_possible_and_written_down(run):
    test_set.claim(run, "evaluate")
    test_set.finish(run, "evaluate")
    test_set.claim(run, "evaluate", again=True)
    test_set.finish(run, "evaluate")
    uses = (read_json(run.test_opened) or {})["uses"]
    assert len(uses) == 2
    assert all(use["finished"] for use in uses)
