import io
import re

import pytest

from distrain.config.reading.load import load_recipe
from distrain.monitor.metrics_file import truncate_after
from distrain.runs.folder import RunFolder
from distrain.runs.records import append_event, append_record, write_json
from launcher.watch import progress
from launcher.watch.display import (
    BarDisplay,
    LineDisplay,
    event_line,
)
from launcher.watch.progress import Extent, StageFollower, extent_of, total_steps
from tests.launcher.fake_runtime import step_record
from tests.launcher.small_run import load_small, new_run

ERASE_LINE = "\x1b[2K"


class Recorder:
    """A display that remembers what it was given."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def length(self, total_steps):
        self.shown.append(f"length {total_steps}")

    def note(self, text):
        self.shown.append(text)

    def step(self, record):
        self.shown.append(f"step {record['train/global_step']}")

    def validation(self, record):
        self.shown.append(f"validation {record['train/global_step']}")

    def event(self, record):
        self.shown.append(record["event"])

    def close(self):
        pass


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for one
    monkeypatch.setenv("TERM", "xterm")


def plain(text):
    """Drop colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def at(second, record):
    return {**record, "time": f"2026-01-01T00:00:{second:02}.000Z"}


def test_only_this_attempt_of_this_stage_is_shown_in_the_order_of_time(tmp_path):
    run = RunFolder(tmp_path)
    metrics = run.stage("pretrain").metrics
    display = Recorder()
    append_record(metrics, step_record(1, attempt=1))
    append_event(run.events, "checkpoint", "pretrain", attempt=1, step=1)
    append_record(metrics, at(3, step_record(2, attempt=2)))
    append_record(metrics, at(5, {"attempt": 2, "train/global_step": 2, "eval/loss": 3.0}))
    append_record(run.events, at(2, {"event": "resumed", "stage": "pretrain", "attempt": 2}))
    append_record(run.events, at(4, {"event": "checkpoint", "stage": "pretrain", "attempt": 2}))
    append_record(run.events, at(4, {"event": "checkpoint", "stage": "sft", "attempt": 2}))

    StageFollower(run, "pretrain", 2, display).poll()

    assert display.shown == ["resumed", "step 2", "checkpoint", "validation 2"]


def test_after_a_rewind_only_what_is_new_is_shown(tmp_path):
    run = RunFolder(tmp_path)
    metrics = run.stage("pretrain").metrics
    display = Recorder()
    follower = StageFollower(run, "pretrain", 1, display)
    for number in (1, 2, 3):
        append_record(metrics, at(number, step_record(number, attempt=1)))
    follower.poll()
    truncate_after(metrics, 1)
    append_record(metrics, at(4, step_record(2, attempt=1)))
    follower.poll()
    assert display.shown == ["step 1", "step 2", "step 3", "step 2"]


def test_events_are_lines_of_their_own():
    damaged = at(1, {"event": "quarantined", "reason": "digest of a.distcp"})
    assert event_line("sft", damaged) == event_line("sft", damaged | {"step": 3})
    assert "set aside: digest of a.distcp" in str(event_line("sft", damaged))
    assert event_line("sft", at(1, {"event": "started"})) is None


def test_plain_lines_show_the_first_step_and_every_due_one():
    stream = io.StringIO()
    display = LineDisplay("pretrain", 12, 5, stream)
    for number in range(3, 13):
        display.step(step_record(number, attempt=2))
    steps = [line.split("step ")[1].split("/")[0] for line in stream.getvalue().splitlines()]
    assert [int(step) for step in steps] == [3, 5, 10, 12]


def test_the_bar_ends_at_the_last_step_and_events_scroll_above(capsys):
    display = BarDisplay(Extent("pretrain", total_steps=4))
    for number in (1, 2, 3, 4):
        display.step(step_record(number, attempt=1))
    display.event(at(1, {"event": "checkpoint", "step": 4}))
    display.validation(at(2, {"train/global_step": 4, "eval/loss": 7.5, "eval/perplexity": 1808}))
    display.close()
    shown = capsys.readouterr().err
    assert "checkpoint of step 4" in shown
    assert re.search(r"\d\d:\d\d:\d\d pretrain step 4/4 \| validation loss 7.500", shown)
    assert "4/4" in shown
    assert "loss 7.600" in shown


def test_a_bar_starts_where_the_run_is(capsys, terminal):
    """Committed are 90 steps; the newest checkpoint was damaged, so it goes on after 80."""
    display = BarDisplay(Extent("pretrain", step=90, total_steps=400))
    display.close()
    assert "90/400 starts" in plain(capsys.readouterr().err)
    display = BarDisplay(Extent("pretrain", step=90, total_steps=400))
    display.event(at(1, {"event": "resumed", "step": 80}))
    display.close()
    shown = plain(capsys.readouterr().err)
    assert "goes on after step 80" in shown
    assert " 80/400" in shown
    assert " 0/400" not in shown


def test_a_stage_without_steps_leaves_no_line(capsys, terminal):
    display = BarDisplay(Extent("prepare", has_steps=False))
    display.note("2 of 5 ranges cleaned")
    display.close()
    shown = capsys.readouterr().err
    assert "/?" not in shown
    drawn, _, erased = shown.rpartition("2 of 5 ranges cleaned")
    assert "prepare" in drawn
    assert ERASE_LINE in erased


@pytest.mark.parametrize("steps", [0, 1])
def test_only_a_bar_that_has_moved_stays(capsys, terminal, steps):
    """An attempt that made no step leaves the message of its end alone."""
    display = BarDisplay(Extent("pretrain", total_steps=4))
    for number in range(1, 1 + steps):
        display.step(step_record(number, attempt=1))
    display.close()
    *_, after = capsys.readouterr().err.split("pretrain")
    assert (ERASE_LINE in after) == (steps == 0)


def test_an_attempt_begins_at_the_committed_step_and_has_the_length_it_counted(tmp_path):
    plan = new_run(tmp_path, "pretrain.training.max_steps=null", "pretrain.training.num_epochs=2")
    folder = plan.run.stage("pretrain")
    assert extent_of(plan.run, plan.recipe, "pretrain") == Extent("pretrain", 0, None, 10)
    assert extent_of(plan.run, plan.recipe, "prepare") == Extent("prepare", has_steps=False)
    write_json(folder.state, {"state": "stopped", "attempt": 1, "step": 99})
    write_json(folder.data, {"attempt": 1, "max_steps": 400})
    assert extent_of(plan.run, plan.recipe, "pretrain") == Extent("pretrain", 99, 400, 10)


def test_the_length_and_the_ranges_are_shown_as_soon_as_they_are_known(tmp_path, monkeypatch):
    run, display = RunFolder(tmp_path), Recorder()
    follower = StageFollower(run, "pretrain", 2, display)
    write_json(run.stage("pretrain").data, {"attempt": 1, "max_steps": 300})
    follower.poll()
    assert display.shown == []  # another attempt's
    write_json(run.stage("pretrain").data, {"attempt": 2, "max_steps": 400})
    follower.poll()
    follower.poll()
    assert display.shown == ["length 400"]

    write_json(run.stage("prepare").plan, {"sources": {"main": {"ranges": [1, 2]}}})
    monkeypatch.setattr(progress, "NOTE_S", 0)
    write_json(run.stage("prepare").cleaned / "main" / "_0.json", {})
    follower = StageFollower(run, "prepare", 1, display)
    follower.poll()
    (run.stage("prepare").cleaned / "main" / "_0.json").unlink()  # as when it has committed
    follower.poll()
    assert display.shown[1:] == ["1 of 2 ranges cleaned"]


def test_the_number_of_steps_is_that_of_the_runtime(tmp_path):
    assert total_steps(load_small(tmp_path).recipe, "pretrain") == 25
    assert total_steps(load_small(tmp_path).recipe, "prepare") is None
    text = load_small(tmp_path).text
    for written, steps in (("max_tokens: 1000", 31), ("num_epochs: 2", None)):
        path = tmp_path / "other.yaml"
        path.write_text(text.replace("max_steps: 25", written))
        assert total_steps(load_recipe(path).recipe, "pretrain") == steps


def test_a_validation_is_one_whatever_is_measured(tmp_path):
    run, display = RunFolder(tmp_path), Recorder()
    score = {"attempt": 1, "train/global_step": 2, "eval/preference": 3.0}
    append_record(run.stage("pretrain").metrics, at(5, score))
    StageFollower(run, "pretrain", 1, display).poll()
    assert display.shown == ["validation 2"]
