"""Resumes in the report: what each was compared with."""

from launcher.report.data import RunData, StageRecords
from launcher.report.resumes import SHOWN, resume_tables

STAGE = StageRecords("pretrain", kind="pretrain")


def resume(step, kind="certified", stage="pretrain", **fields):
    return {"event": kind, "stage": stage, "step": step, "found": []} | fields


def test_each_resume_is_a_row_with_what_differed():
    told = {"state": "weights as saved", "again": "steps 5 to 8 made again bit by bit"}
    events = [
        resume(4, **told),
        resume(1234, "not_certified", **told | {"found": ["step 6: loss", "step 7: loss"]}),
        resume(3, stage="sft"),
        {"event": "certified", "stage": "pretrain"},  # of a damaged file
    ]
    (table,) = resume_tables(STAGE, RunData("quick", [STAGE], events))
    words = (told["state"], told["again"])
    assert table.rows[:2] == ((*words, "nothing", "4"), (*words, "step 6: loss", "1,234"))
    assert table.note == "2 of 3 went on as they were"


def test_a_run_without_resumes_says_nothing_and_a_long_list_is_cut():
    assert resume_tables(STAGE, RunData("quick", [STAGE])) == []
    events = [resume(step) for step in range(SHOWN + 20)]
    (table,) = resume_tables(STAGE, RunData("quick", [STAGE], events))
    assert len(table.rows) == SHOWN
