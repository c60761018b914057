import pytest

from launcher.report.data import Attempt, RunData, StageRecords
from launcher.report.timeline import EVENTS_SHOWN, BusyAxis, build_timeline, event_rows


def test_short_pauses_stay_on_the_axis():
    axis = BusyAxis([(0, 100), (105, 200)])
    assert axis.percent(0) == 0
    assert axis.percent(100) == 50
    assert axis.percent(200) == 100
    assert axis.breaks() == []


def test_a_nights_wait_is_cut_out_and_named():
    axis = BusyAxis([(0, 600), (40_000, 40_600)])
    (cut,) = axis.breaks()
    assert cut.text == "10h56m"
    assert axis.percent(600) < cut.at < axis.percent(40_000)
    assert axis.percent(600) == pytest.approx(100 - axis.percent(40_000), abs=0.01)


def test_ticks_are_round_durations():
    assert [tick.text for tick in BusyAxis([(0, 234)]).ticks()] == ["0s", "1m", "2m", "3m"]
    assert [tick.text for tick in BusyAxis([(0, 3)]).ticks()] == ["0s", "1s", "2s", "3s"]


def test_bar_names_attempt_and_outcome():
    stage = StageRecords("pretrain", attempts=[Attempt("pretrain", 1, 0, 90, "lost")])
    timeline = build_timeline(RunData("run", [stage]))
    assert timeline is not None
    assert timeline.rows[0].bars[0].text == "pretrain, attempt 1: lost, 1m30s"


def test_very_short_attempt_can_be_seen_and_stays_on_the_axis():
    attempts = [Attempt("a", 1, 0, 1000, "done"), Attempt("a", 2, 1000, 1000, "done")]
    timeline = build_timeline(RunData("run", [StageRecords("a", attempts=attempts)]))
    assert timeline is not None
    last = timeline.rows[0].bars[1]
    assert last.width > 0
    assert last.at + last.width <= 100


def test_run_without_attempts_has_no_timeline():
    assert build_timeline(RunData("run", [StageRecords("pretrain")])) is None


def test_routine_events_are_counted_not_listed():
    events = [{"event": "checkpoint", "stage": "p", "time": "", "step": n} for n in range(3)]
    events.append({"event": "restarted", "stage": "p", "time": "", "attempt": 2, "reason": "x"})
    rows, note = event_rows(events)
    assert [row.details for row in rows] == ["attempt 2, reason x"]
    assert note == "3 committed checkpoints not listed."


def test_long_lists_of_events_say_what_they_leave_out():
    events = [{"event": "restarted", "stage": "p", "time": ""}] * (EVENTS_SHOWN + 20)
    rows, note = event_rows(events)
    assert len(rows) == EVENTS_SHOWN
    assert note == "The first 20 events are in events.jsonl only."
