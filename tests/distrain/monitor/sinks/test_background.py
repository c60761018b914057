import threading

import pytest

from distrain.config.training import LoggingConfig, WandbConfig
from distrain.monitor.monitor import Monitor, Workload
from distrain.monitor.sinks import SINKS
from distrain.monitor.sinks.background import BackgroundSink
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records

WORKLOAD = Workload(max_steps=100, num_ranks=1, flops_per_token=1e6, peak_flops=1e11)


class Collecting:
    def __init__(self):
        self.records = []
        self.closed = False

    def write(self, record):
        self.records.append(record)

    def close(self):
        self.closed = True


class Raising(Collecting):
    def write(self, record):
        raise ConnectionError("no route to host")


class Hanging(Collecting):
    def __init__(self):
        super().__init__()
        self.released = threading.Event()

    def write(self, record):
        self.released.wait(60)


def write_scores(run, number):
    """As the loop does: every call must come back, and every record reach metrics.jsonl."""
    config = LoggingConfig(wandb=WandbConfig())
    monitor = Monitor(run, "pretrain", 1, WORKLOAD, config)
    for step in range(1, number + 1):
        monitor.record_scores(step, {"loss": 2.0}, {})
    (sink,) = monitor._sinks
    sink.close(timeout_s=0.1)
    assert len(list(read_records(run.stage("pretrain").metrics))) == number
    return sink


def failures(run):
    return [event for event in read_records(run.events) if event["event"] == "sink_failed"]


def test_writer_gets_every_record_in_order_and_is_closed():
    writer = Collecting()
    sink = BackgroundSink("test", lambda: writer, pytest.fail)
    for step in range(500):
        sink.write({"step": step})
    sink.close()
    assert [record["step"] for record in writer.records] == list(range(500))
    assert writer.closed
    assert sink.dropped == 0


def test_sink_that_raises_is_reported_once_and_dropped(tmp_path, monkeypatch):
    monkeypatch.setitem(SINKS, "wandb", lambda run, config: Raising())
    run = RunFolder(tmp_path)
    write_scores(run, 200)
    (event,) = failures(run)
    assert event["sink"] == "wandb"
    assert event["reason"] == "ConnectionError: no route to host"


def test_sink_that_cannot_be_opened_is_reported_once(tmp_path, monkeypatch):
    def no_wandb(run, config):
        raise ModuleNotFoundError("install distrain[wandb]")

    monkeypatch.setitem(SINKS, "wandb", no_wandb)
    run = RunFolder(tmp_path)
    write_scores(run, 200)
    assert [event["reason"] for event in failures(run)] == [
        "ModuleNotFoundError: install distrain[wandb]"
    ]


def test_sink_that_hangs_lets_training_proceed(tmp_path, monkeypatch):
    hanging = Hanging()
    monkeypatch.setitem(SINKS, "wandb", lambda run, config: hanging)
    run = RunFolder(tmp_path)
    sink = write_scores(run, 50)
    (event,) = failures(run)
    assert "still busy" in event["reason"]
    assert sink.dropped == 49  # one is in its hands
    hanging.released.set()


def test_full_queue_drops_and_counts_and_reports_once():
    hanging = Hanging()
    reasons: list[str] = []
    sink = BackgroundSink("test", lambda: hanging, reasons.append, queue_length=5)
    for step in range(100):
        sink.write({"step": step})
    assert sink.dropped in (94, 95)  # 5 wait; the thread may hold one more
    sink.close(timeout_s=0.1)
    assert reasons == ["no record taken while 5 were waiting"]
    hanging.released.set()
