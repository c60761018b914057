import json

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.records import write_json
from distrain.runs.skips import Skip, append_skip
from launcher.proving.twin import Exactness, compare_stage

RESULT = {
    "checkpoint": {"step": 3, "product": "a1", "rest": "b1"},
    "train_loss": 2.0,
    "ranks": 2,
    "samples": {"read": [[0, 24]], "digest": "c1"},
}


def record(step, **others):
    return {
        "time": f"2026-01-01T00:00:0{step}.000Z",
        "attempt": 1,
        "train/global_step": step,
        "train/loss": 2.0 + step / 3,
        "train/grad_norm": 0.1 * step,
        "data/batch_hash": step,
        "perf/step_time_s": 0.5,
        **others,
    }


@pytest.fixture
def stage(tmp_path):
    """Makes a finished stage of three steps."""

    def make(name, *records, result=RESULT, state="done"):
        folder = RunFolder(tmp_path / name).stage("pretrain")
        write_json(folder.state, {"state": state, "attempt": 1, "step": 3})
        write_json(folder.result, result)
        lines = [record(1), {**record(2), "eval/loss": 2.5}, record(2), record(3), *records]
        folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return make


def test_equal_stages_differ_in_nothing_but_times_and_attempts(stage):
    later = record(3, attempt=4, time="2027-01-01T00:00:00.000Z", **{"perf/step_time_s": 9.0})
    ours = stage("ours", later, result=RESULT | {"seconds": 9.0})
    assert compare_stage(ours, stage("twin", result=RESULT | {"seconds": 1.0})) == []


def test_one_bit_of_a_loss_is_named_with_its_step(stage):
    changed = record(2, **{"train/loss": 2.666666666666667})  # the last of the double's bits
    (found,) = compare_stage(stage("ours", changed), stage("twin"))
    assert found == "step 2: train/loss is 2.666666666666667, of the twin 2.6666666666666665"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"checkpoint": {"step": 3, "product": "a2", "rest": "b1"}}, "checkpoint is"),
        ({"checkpoint": {"step": 3, "product": "a1", "rest": "b2"}}, "checkpoint is"),
        ({"samples": {"read": [[0, 16]], "digest": "c1"}}, "samples is"),
    ],
)
def test_another_final_state_or_ledger_is_a_difference(stage, change, said):
    (found,) = compare_stage(stage("ours", result=RESULT | change), stage("twin"))
    assert said in found


def test_records_that_are_missing_or_too_many_are_named(stage):
    (found,) = compare_stage(stage("ours"), stage("twin", record(4)))
    assert found == "step 4 has no record"
    (found,) = compare_stage(stage("more", record(4)), stage("twin"))
    assert found == "step 4 has a record, the twin none"


def test_a_step_that_was_left_out_is_a_difference(stage):
    ours = stage("ours")
    append_skip(ours, Skip(2, 2, 8, 16, "loss", 2))
    (found,) = compare_stage(ours, stage("twin"))
    assert found.startswith("steps left out: 2 to 2, of the twin none")


def test_a_stage_that_is_not_done_proves_nothing(stage):
    (found,) = compare_stage(stage("ours", state="stopped"), stage("twin"))
    assert found.endswith("the stage is stopped, not done")


def test_other_ranks_sum_in_another_order_but_read_the_same(stage):
    other = RESULT | {"checkpoint": {"step": 3, "product": "a2", "rest": "b2"}, "ranks": 4}
    near = record(3, **{"train/loss": 3.0 * (1 + 1e-9)})
    ours, twin = stage("ours", near, result=other), stage("twin")
    assert len(compare_stage(ours, twin)) == 3
    loosely = Exactness(relative=1e-6, same_ranks=False)
    assert compare_stage(ours, twin, loosely) == []
    assert compare_stage(stage("hash", record(3, **{"data/batch_hash": 4})), twin, loosely) != []


def test_records_before_the_first_step_are_not_compared(stage):
    ours = stage("ours", record(1, **{"train/loss": 9.0}))
    assert compare_stage(ours, stage("twin"), Exactness(first_step=2)) == []
    assert compare_stage(ours, stage("twin"), Exactness(last_step=1)) != []
