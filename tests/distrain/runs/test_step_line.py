import re

from distrain.config.tasks import task_form
from distrain.config.training import LoggingConfig
from distrain.monitor.monitor import Monitor
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.step_line import Pace, step_line, validation_line
from tests.distrain.monitor.test_monitor import WORKLOAD, record_step
from tests.distrain.tasks import pairwise
from tests.launcher.fake_runtime import step_record
from tests.launcher.watch.test_progress import at

TASK = task_form(None)


def test_a_step_line_has_the_columns_of_the_field():
    pace = Pace(9537)
    record = at(10, step_record(1230, attempt=1)) | {
        "train/loss": 3.2141,
        "train/learning_rate": 5.9e-4,
        "train/grad_norm": 0.4199,
        "perf/tokens_per_sec": 412_000.0,
        "perf/step_time_s": 1.387,
        "perf/mfu": 0.026,
        "memory/max_gib": 61.24,
    }
    pace.add(record)
    assert step_line("pretrain", record, pace, TASK) == (
        "pretrain step 1,230/9,537 | loss 3.214 | lr 5.9e-04 | grad 0.42 |  412k tok/s | mfu 2.6% "
        "| mem 61.2 GiB | eta 3h12m"
    )


def test_a_balancing_loss_stands_beside_the_loss_of_a_step_that_has_it():
    record = at(10, step_record(3, attempt=1)) | {"train/loss": 3.0}
    pace = Pace(None)
    pace.add(record)
    assert "| loss 3.000 | lr" in step_line("pretrain", record, pace, TASK)
    balanced = record | {"train/balancing_loss": 2.0625}
    line = step_line("pretrain", balanced, pace, TASK)
    assert "| loss 3.000 | balancing_loss 2.062 | lr" in line


def test_speed_and_time_left_are_means_over_the_last_steps():
    pace = Pace(10)
    for number in range(1, 5):
        pace.add(at(2 * number, step_record(number, attempt=1)))
    last = step_record(4, attempt=1)
    assert pace.tokens_per_s(last) == 16.0
    assert pace.eta_s(last) == 12.0


def test_padding_is_no_token_and_older_records_know_none():
    pace = Pace(10)
    for number in range(1, 5):
        pace.add(at(2 * number, step_record(number, attempt=1) | {"data/num_padding": 8}))
    assert pace.tokens_per_s(step_record(4, attempt=1)) == 16.0 - 8 / 2


def test_mfu_is_of_the_speed_beside_it():
    pace = Pace(None)
    for number in range(1, 4):
        record = at(2 * number, step_record(number, attempt=1))
        pace.add(record | {"perf/tokens_per_sec": 32.0})
    line = step_line(
        "pretrain", record | {"perf/tokens_per_sec": 32.0, "perf/mfu": 0.4}, pace, TASK
    )
    assert "|    16 tok/s | mfu 20.0% |" in line


def test_a_loss_that_is_not_finite_is_written_as_such():
    record = at(1, step_record(3, attempt=1)) | {"train/loss": None, "train/grad_norm": None}
    pace = Pace(None)
    pace.add(record)
    assert "| loss not finite |" in step_line("pretrain", record, pace, TASK)
    assert step_line("pretrain", record, pace, TASK).endswith("eta ?")


def test_a_validation_line_holds_what_the_task_shows():
    validation = at(1, {"train/global_step": 40, "eval/loss": 5.25, "eval/perplexity": 190.566})
    assert validation_line("pretrain", validation, 430, TASK) == (
        "pretrain step  40/430 | validation loss 5.250 | perplexity 190.6"
    )


def test_the_runtime_and_the_launcher_say_the_same_of_a_run(tmp_path, caplog):
    """The runtime has the steps at hand, the launcher only the records they left."""
    caplog.set_level("INFO", "distrain")
    run = RunFolder(tmp_path / "run")
    with Monitor(run, "pretrain", 1, WORKLOAD, LoggingConfig(logging_steps=1)) as monitor:
        for step in range(1, 31):
            record_step(monitor, step, step_time_s=0.2 + step / 100)
        monitor.record_scores(30, {"loss": 2.5}, {"main": {"loss": 2.5}})
    pace, lines = Pace(WORKLOAD.max_steps), []
    for record in read_records(run.stage("pretrain").metrics):
        if "eval/loss" in record:
            lines.append(validation_line("pretrain", record, WORKLOAD.max_steps, TASK))
            continue
        pace.add(record)
        lines.append(step_line("pretrain", record, pace, TASK))
    assert lines == [record.getMessage() for record in caplog.records]
    assert len({re.sub(r"[\d.,]+", "0", line) for line in lines}) > 1


def test_lines_show_the_metrics_of_the_stages_task_by_name():
    pace, record = Pace(None), at(1, step_record(3, attempt=1))
    record |= {"train/preference": 0.6931, "train/agreement": None}
    pace.add(record)
    line = step_line("pretrain", record, pace, pairwise.FORM)
    assert " | preference 0.693 | agreement not finite | lr " in line
    validation = at(1, {"train/global_step": 3, "eval/preference": 0.5, "eval/agreement": 0.25})
    line = validation_line("pretrain", validation, 9, pairwise.FORM)
    assert line.endswith("step 3/9 | validation preference 0.500 | agreement 0.25")


def test_a_step_that_was_not_applied_says_so_and_speed_goes_on_from_where_training_went_back():
    pace = Pace(None)
    for number in (1, 2, 3, 2):
        pace.add(at(10 + number, step_record(number, attempt=1)))
    record = at(20, step_record(3, attempt=1)) | {
        "train/loss": None, "train/grad_norm": None, "train/applied": False,
        "train/not_applied": "rewind",
    }  # fmt: skip
    pace.add(record)
    line = step_line("pretrain", record, pace, TASK)
    assert "| loss not finite | !rewind    | grad not finite |" in line
    assert pace.tokens_per_s(record) > 0
