import logging
import re

import pytest

from distrain.config.training import LoggingConfig
from distrain.monitor.monitor import Monitor, Workload
from distrain.monitor.step_result import StepResult
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import EVAL_FIELDS, STEP_FIELDS

WORKLOAD = Workload(max_steps=9_537, num_ranks=2, flops_per_token=1.5e7, peak_flops=1e11)
LINE = re.compile(
    r"pretrain step {1,5}([\d,]+)/9,537 \| loss \d\.\d{3} \| lr \d\.\de-\d\d \| grad \d\.\d\d \| "
    r" *[\d.]+[kMG]? tok/s \| mfu \d+\.\d% \| mem \d\.\d GiB \| eta \S+$"
)


def measured(step, **changes):
    values = {
        "loss": 8.3 - 0.0001 * step,
        "learning_rate": 5.9e-4,
        "grad_norm": 0.42,
        "applied": True,
        "first_sample": 8 * (step - 1),
        "num_samples": 8,
        "num_tokens": 2048,
        "num_targets": 2040,
        "batch_hash": 1234,
        "memory_gib": 0.7,
    }
    return StepResult(**(values | changes))


def record_step(monitor, step, step_time_s=0.25, **changes):
    result = measured(step, **changes)
    monitor.record_step(step, result, step_time_s=step_time_s, data_time_s=0.01)


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "quickstart")


def open_monitor(run, attempt=1, **config):
    return Monitor(run, "pretrain", attempt, WORKLOAD, LoggingConfig(**config))


def test_step_record_has_exactly_the_agreed_fields(run):
    with open_monitor(run) as monitor:
        record_step(monitor, 1)
    (record,) = read_records(run.stage("pretrain").metrics)
    assert set(record) == {"time", "attempt", *STEP_FIELDS}
    assert record["perf/tokens_per_sec"] == 2048 / 0.25
    assert record["perf/mfu"] == pytest.approx(1.5e7 * 8192 / (2 * 1e11))
    assert record["train/tokens_seen"] == 2048


def test_validation_record_has_exactly_the_agreed_fields(run):
    with open_monitor(run, attempt=2) as monitor:
        monitor.record_scores(50, {"loss": 2.0}, {"main": {"loss": 2.0}})
    (record,) = read_records(run.stage("pretrain").metrics)
    assert set(record) == {"time", "attempt", *EVAL_FIELDS}
    assert record["attempt"] == 2
    assert record["eval/perplexity"] == pytest.approx(7.389056)


def test_padding_is_counted_apart_and_is_no_token(run, caplog):
    caplog.set_level(logging.INFO, "distrain")
    with open_monitor(run, logging_steps=1) as monitor:
        record_step(monitor, 1, num_padding=1024)
        record_step(monitor, 2)
    padded, full = read_records(run.stage("pretrain").metrics)
    assert (padded["data/num_padding"], padded["train/tokens_seen"]) == (1024, 2048)
    assert padded["perf/tokens_per_sec"] == 1024 / 0.25
    assert padded["perf/mfu"] == full["perf/mfu"] / 2
    assert "data/num_padding" not in full


def test_loss_is_recorded_bitwise(run):
    loss = 5.0000000000000009
    with open_monitor(run) as monitor:
        record_step(monitor, 1, loss=loss)
    (record,) = read_records(run.stage("pretrain").metrics)
    assert record["train/loss"] == loss


def test_non_finite_step_is_recorded_as_null_and_not_applied(run):
    with open_monitor(run) as monitor:
        record_step(monitor, 1, loss=float("nan"), grad_norm=float("inf"), applied=False)
        monitor.record_scores(1, {"loss": float("nan")}, {})
    step, scores = read_records(run.stage("pretrain").metrics)
    assert (step["train/loss"], step["train/grad_norm"]) == (None, None)
    assert step["train/applied"] is False
    assert (scores["eval/loss"], scores["eval/perplexity"]) == (None, None)


def test_line_has_the_fixed_columns(run, caplog):
    caplog.set_level(logging.INFO, "distrain")
    with open_monitor(run, logging_steps=1) as monitor:
        for step in (1, 2, 999, 1000, 9537):
            record_step(monitor, step)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 5
    assert all(LINE.match(line) for line in lines), lines
    assert len({line.index("|") for line in lines}) == 1  # columns stand under each other
    assert lines[-1].endswith("eta 0s")


def test_lines_come_at_the_first_step_then_every_logging_steps_then_at_the_last(run, caplog):
    caplog.set_level(logging.INFO, "distrain")
    with open_monitor(run, logging_steps=10) as monitor:
        for step in [*range(41, 65), 9537]:
            record_step(monitor, step)
    lines = [LINE.match(record.getMessage()) for record in caplog.records]
    shown = [int(line[1].replace(",", "")) for line in lines if line is not None]
    assert shown == [41, 50, 60, 9537]
    assert len(list(read_records(run.stage("pretrain").metrics))) == 25  # the file has every step


def test_killed_and_resumed_run_holds_each_step_once(run):
    first = open_monitor(run)
    for step in range(1, 8):
        record_step(first, step)
    # No close: the process was killed. The checkpoint it left is that of step 5.
    with open_monitor(run, attempt=2) as second:
        assert second.truncate_after(5) == 2
        for step in range(6, 11):
            record_step(second, step)
    records = list(read_records(run.stage("pretrain").metrics))
    assert [record["train/global_step"] for record in records] == list(range(1, 11))
    assert [record["attempt"] for record in records] == [1] * 5 + [2] * 5


def test_event_names_stage_and_attempt(run):
    with open_monitor(run, attempt=3) as monitor:
        monitor.event("checkpoint", step=100)
    (event,) = read_records(run.events)
    assert (event["event"], event["stage"], event["attempt"], event["step"]) == (
        "checkpoint",
        "pretrain",
        3,
        100,
    )


def test_event_of_an_unknown_kind_is_refused(run):
    with open_monitor(run) as monitor, pytest.raises(ValueError, match="EVENT_KINDS"):
        monitor.event("checkpiont")
