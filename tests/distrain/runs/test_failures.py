from distrain.errors import TrainingError
from distrain.runs.failures import Failure, count_restarts, failure_of, record_failure
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import read_state, write_json

ERROR = TrainingError("step 7", "a loss that is not finite", "a number", "Lower the rate.")


def test_who_does_not_count_attempts_names_that_of_the_state(tmp_path):
    run = RunFolder(tmp_path)
    left = {"state": "running", "attempt": 2, "step": 5, "requeue": False, "time": "earlier"}
    write_json(run.stage("pretrain").state, left)
    record_failure(run, "pretrain", ERROR)
    state = read_state(run.stage("pretrain"))
    assert state is not None
    assert (state["state"], state["attempt"], state["step"]) == ("failed", 2, 5)
    assert [event["attempt"] for event in read_records(run.events)] == [2]
    failure = failure_of(run.stage("pretrain"))
    assert failure == Failure(
        state["time"],
        "step 7: found a loss that is not finite; expected a number.",
        "Lower the rate.",
    )


def test_an_attempt_that_was_counted_is_recorded_as_it_is(tmp_path):
    run = RunFolder(tmp_path)
    write_json(run.stage("pretrain").state, {"state": "running", "attempt": 2, "step": 5})
    record_failure(run, "pretrain", ERROR, 3)
    state = read_state(run.stage("pretrain"))
    assert state is not None
    assert state["attempt"] == 3


def test_a_stage_without_a_word_of_failure_has_not_failed(tmp_path):
    folder = RunFolder(tmp_path).stage("pretrain")
    assert failure_of(folder) is None
    write_json(folder.state, {"state": "running", "attempt": 1, "step": 0})
    assert failure_of(folder) is None
    write_json(folder.state, {"state": "failed", "attempt": 1, "step": 0})  # of an older version
    assert failure_of(folder) == Failure("", "", "")


def test_restarts_after_failures_are_counted_stage_by_stage():
    reasons = ("killed by SIGKILL", "yielded", "exit code 1")
    events = [{"event": "restarted", "stage": "a", "reason": reason} for reason in reasons]
    events += [{"event": "started", "stage": "a"}, {"event": "restarted", "stage": "b"}]
    assert (count_restarts(events, "a"), count_restarts(events, "b")) == (2, 1)
