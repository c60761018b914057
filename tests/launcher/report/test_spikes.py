"""Spikes in the report: what followed, and how to see what they read."""

from launcher.report.data import RunData, StageRecords
from launcher.report.page import restart_marks
from launcher.report.spikes import SHOWN, spike_figures, spike_tables

STAGE = StageRecords("pretrain", kind="pretrain")


def spike(step, action, stage="pretrain", **changes):
    values = {"metric": "loss", "value": 412.0, "median": 4.1, "limit": 5.2, "action": action}
    return {"event": "spike", "stage": stage, "step": step} | values | changes


def test_each_spike_is_a_row_with_what_followed():
    went_back = {
        "event": "rewound", "stage": "pretrain", "step": 1200, "from_step": 1234,
        "first_step": 1229, "last_step": 1239,
    }  # fmt: skip
    events = [
        spike(7, "reported"),
        spike(9, "skipped", metric="grad_norm"),
        spike(1234, "rewound"),
        went_back,
        spike(3, "skipped", stage="sft"),
    ]
    run = RunData("quick", [STAGE], events)
    (table,) = spike_tables(STAGE, run)
    assert [row[:3] + row[6:] for row in table.rows] == [
        ("loss", "step applied", "7", "none"),
        ("grad_norm", "step not applied", "9", "9"),
        ("loss", "back to step 1,200", "1,234", "1,229 to 1,239"),
    ]
    assert table.rows[0][3:6] == ("412", "4.10", "5.20")
    assert "distrain data seen quick --stage pretrain --step 1234" in table.note
    (figure,) = spike_figures(STAGE, run)
    assert (figure.value, figure.note) == ("3", "1 rewind")


def test_a_run_without_spikes_says_nothing_and_a_long_list_what_it_leaves_out():
    assert spike_tables(STAGE, RunData("quick", [STAGE])) == []
    assert spike_figures(STAGE, RunData("quick", [STAGE])) == []
    events = [spike(step, "reported") for step in range(SHOWN + 20)]
    events.append({"event": "spike", "stage": "pretrain"})  # of a damaged file
    (table,) = spike_tables(STAGE, RunData("quick", [STAGE], events))
    assert len(table.rows) == SHOWN
    assert "The first 21 are in events.jsonl only" in table.note


def test_charts_mark_where_steps_were_not_applied():
    reasons = [None, "rewind", "rewind", None, "spike"]
    steps = [
        {"train/global_step": n, "attempt": 1} | ({"train/not_applied": why} if why else {})
        for n, why in enumerate(reasons, start=1)
    ]
    marks = restart_marks(StageRecords("pretrain", steps=steps))
    assert marks == ((2, "not applied: rewind"), (5, "not applied: spike"))
